"""What a certificate says about its holder. Pure: names in, names out.

Identity lives in the subject alternative name and nowhere else (RFC 5280, section 4.2.1.6); the
subject's common name is for human readers and is never compared.

* a site: exactly one entry, ``URI:urn:stillroom:site:<name>``;
* the server: ``URI:urn:stillroom:server`` and the DNS names and addresses that sites dial.
"""

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509

from stillroom.common.errors import ConfigError, TrustError

SITE_PREFIX = "urn:stillroom:site:"
SERVER_URI = "urn:stillroom:server"
SITE_PATTERN = r"^[a-z][a-z0-9-]{1,30}$"

_SITE = re.compile(SITE_PATTERN.removeprefix("^").removesuffix("$"), re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)


def site_san(site: str) -> x509.SubjectAlternativeName:
    """The name that a certificate of ``site`` carries.

    Raises:
        ConfigError: STR-100. ``site`` does not match ``SITE_PATTERN``.
    """
    if _SITE.fullmatch(site) is None:
        raise ConfigError(
            "A site's name must be 2 to 31 lower-case letters, digits or hyphens, a letter first.",
            fix="Choose another name, e.g. `hospital-a`.",
        )
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SITE_PREFIX + site)])


def server_san(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    """The names that the server's certificate carries.

    Args:
        hosts: DNS names or IP addresses that sites dial; at least one, without ports.

    Raises:
        ConfigError: STR-100. No host, or one that is neither a DNS name nor an address.
    """
    if not hosts:
        raise ConfigError(
            "A server certificate needs at least one host name.",
            fix="Give the DNS names or addresses that sites dial.",
        )
    uri = x509.UniformResourceIdentifier(SERVER_URI)
    return x509.SubjectAlternativeName([uri, *map(_host, hosts)])


def server_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and addresses in the server's certificate, as one dials them; none without a SAN."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    hosts = (n for n in found.value if isinstance(n, (x509.DNSName, x509.IPAddress)))
    return tuple(str(host.value) for host in hosts)


def site_name(certificate: x509.Certificate) -> str:
    """The site a certificate names. Does not verify who issued it: see ``verify``.

    A second name of any kind is refused rather than ignored: two readers that pick different
    entries of one certificate would see two sites.

    Raises:
        TrustError: STR-201. No name, more than one, or not a site's.
    """
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise _not_a_site("has no readable subject alternative name") from error
    names = list(san)
    if any(
        isinstance(name, x509.UniformResourceIdentifier) and name.value == SERVER_URI
        for name in names
    ):
        raise _not_a_site("belongs to a server, not to a site")
    if len(names) != 1:
        raise _not_a_site(f"carries {len(names)} names where a site has exactly one")
    name = names[0]
    if not isinstance(name, x509.UniformResourceIdentifier):
        raise _not_a_site("names a host, not a site")
    site = name.value.removeprefix(SITE_PREFIX)
    if site == name.value or _SITE.fullmatch(site) is None:
        raise _not_a_site("names something other than a site")
    return site


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in host.split(".")):
        raise ConfigError(
            "A host is neither a DNS name nor an IP address.",
            fix="Give hosts without scheme, port or wildcard, e.g. `fl.example.org`.",
        )
    return x509.DNSName(host.lower())


def _not_a_site(how: str) -> TrustError:
    # The certificate's own strings stay out of the message: a stranger chose them.
    return TrustError(
        f"A certificate {how}.",
        fix="Use the site certificate that this consortium issued.",
        code="STR-201",
    )
