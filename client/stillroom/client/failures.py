"""What a failed call of the consortium means to the courier. Pure."""

from typing import Any

import httpx

from stillroom.client.breaks import RunEnded
from stillroom.client.compatibility import UPGRADE_REQUIRED, refused_over_version
from stillroom.client.connection import Refused
from stillroom.client.proxy import proxy_refused
from stillroom.common.errors import TrustError


def translate(error: httpx.HTTPError, server: str) -> Exception | None:
    """What a failed call means; None when it is worth trying again. Pure."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in {502, 503, 504}:
            return None
        if status == 403:
            return RunEnded()
        if status == UPGRADE_REQUIRED:
            return refused_over_version(_words(error.response), server)
        if status in {401, 412}:  # the edge's word, and Flower's for a key it does not know
            return not_accepted(server)
        return error
    text = str(error).lower()
    if isinstance(error, httpx.ProxyError):
        # A proxy's 5xx speaks of the line behind it, which may come back by itself.
        return None if text.startswith("5") else proxy_refused(error)
    if "certificate verify failed" in text or "hostname" in text:
        return TrustError(
            f"{server} did not show a certificate of this consortium's CA.",
            fix="Check the server's name and the CA file; a TLS-inspecting proxy also causes this.",
            code="STR-201",
        )
    if "certificate" in text or "alert" in text or "unknown ca" in text:
        return TrustError(
            f"{server} refused this site's certificate during the TLS handshake.",
            fix="Check that the certificate was issued by this consortium and has not expired.",
            code="STR-201",
        )
    return None


def not_accepted(server: str) -> TrustError:
    """STR-206. Pure."""
    return TrustError(
        f"{server} does not accept this site's certificate and key together.",
        fix="Ask the operator whether this site is registered with its present certificate.",
        code="STR-206",
    )


def _words(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def status_of(error: BaseException | None) -> int | None:
    """HTTP status of an answer that was no yes; None when there was no answer. Pure."""
    if isinstance(error, Refused):
        return error.status
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
