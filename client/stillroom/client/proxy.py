"""What a proxy's refusal means, in words for hospital IT. Proxies come from ``HTTPS_PROXY``."""

import httpx

from stillroom.common.errors import ResourceError


def proxy_refused(error: httpx.ProxyError) -> ResourceError:
    """The error to show. Nothing of the proxy's address or of a password is in it."""
    text = str(error)
    # 407 by RFC 9110; some proxies (tinyproxy) say 401 to a wrong password.
    if text.startswith(("407", "401")) or "credentials" in text.lower():
        how = "wants a user name and password, or did not accept them"
        fix = "Correct them in HTTPS_PROXY (http://user:password@proxy:port, percent-encoded)."
    else:
        how = "refused to connect to the server"
        fix = "Have the proxy allow CONNECT to the server's name and port, without TLS inspection."
    return ResourceError(f"The proxy named in HTTPS_PROXY {how}.", fix=fix, code="STR-506")
