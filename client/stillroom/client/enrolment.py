"""Joining a consortium: keys are made here and stay here; only their public halves are sent.

1. Fetch the consortium's description over a line that proves nothing yet, and compare its CA with
   the fingerprint the operator gave. Nothing has been sent so far but a request for a public file.
2. Dial again, trusting that CA alone, and send the token and the certificate request.
3. Wait until the operator, who hears the short fingerprint by telephone, approves.

Every step leaves its files behind before the next begins, so that an interrupted enrolment is
resumed by running the same command again. By file, steps 1 and 2 are two files and no network.
"""

import logging
import secrets
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.client.proxy import proxy_refused
from stillroom.client.site_file import SiteForm
from stillroom.common.consortium import Consortium, read_consortium
from stillroom.common.enrolment import (
    Enrol,
    KeyRequest,
    Kit,
    StatusAnswer,
    key_request,
    status_question,
)
from stillroom.common.errors import ConfigError, ResourceError, StillroomError, TrustError
from stillroom.common.pki.files import (
    check_pair,
    load_key,
    load_signing_key,
    write_certificate,
    write_key,
    write_signing_key,
)
from stillroom.common.pki.issue import new_key
from stillroom.common.pki.verify import verify_site
from stillroom.common.signing import new_signing_key
from stillroom.common.tensorfile import write_durably

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
POLL_S = 5.0
MOST_ANSWER = 512 * 1024


@dataclass(frozen=True, slots=True)
class Keys:
    """Both private keys of this site."""

    site: ec.EllipticCurvePrivateKey
    signing: Ed25519PrivateKey

    @classmethod
    def make_or_load(cls, folder: Path) -> "Keys":
        """The keys in ``folder``; made when they are not there yet.

        Raises:
            StillroomError: A key cannot be read, or others can read it.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        site, signing = folder / "site.key", folder / "signing.key"
        if not site.exists():
            write_key(site, new_key())
        if not signing.exists():
            write_signing_key(signing, new_signing_key())
        return cls(load_key(site), load_signing_key(signing))

    def request(self) -> KeyRequest:
        """What is sent: both public keys, each proven."""
        return key_request(self.site, self.signing)


class Door:
    """The consortium's enrolment listener, as seen from a site."""

    def __init__(self, server: str, ca_sha256: str) -> None:
        """Fetch and check the description, then trust its CA alone.

        Raises:
            TrustError: STR-212 another CA than expected; STR-207 a damaged description.
            ResourceError: STR-504 not reachable; STR-506 a proxy refused.
        """
        self._server = server
        unproven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unproven.check_hostname, unproven.verify_mode = False, ssl.CERT_NONE
        with httpx.Client(verify=unproven, timeout=TIMEOUT_S) as client:
            raw = self._ask(lambda: client.get(f"https://{server}/v1/consortium"))
        self.consortium: Consortium = read_consortium(raw, ca_sha256=ca_sha256)
        proven = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proven.minimum_version = ssl.TLSVersion.TLSv1_3
        proven.load_verify_locations(cadata=self.consortium.raw_ca_pem)
        self._client = httpx.Client(verify=proven, timeout=TIMEOUT_S)

    def enrol(self, token: str, keys: KeyRequest) -> StatusAnswer:
        """Spend the token on this site's keys.

        Raises:
            TrustError: STR-211 the token is not accepted; STR-201 the server is another.
        """
        return self._post("/v1/enrol", Enrol(token=token, keys=keys).encode())

    def status(self, signing: Ed25519PrivateKey) -> StatusAnswer:
        """Has the operator approved?

        Raises:
            TrustError: STR-211, the server knows no request with this key, or refused it.
        """
        question = status_question(signing, datetime.now(UTC))
        return self._post("/v1/enrol/status", question.encode())

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _post(self, path: str, body: bytes) -> StatusAnswer:
        url = f"https://{self._server}{path}"
        return StatusAnswer.parse(self._ask(lambda: self._client.post(url, content=body)))

    def _ask(self, call: Callable[[], httpx.Response]) -> bytes:
        try:
            answer = call()
        except httpx.ProxyError as error:
            raise proxy_refused(error) from error
        except httpx.TransportError as error:
            if "certificate verify failed" in str(error).lower():
                raise TrustError(
                    f"{self._server} did not show a certificate of the consortium's CA.",
                    fix="Check the server's name; a TLS-inspecting proxy also causes this.",
                    code="STR-201",
                ) from error
            raise ResourceError(
                f"{self._server} cannot be reached for enrolment.",
                fix="Check name, port, firewall and HTTPS_PROXY, or enrol with --offline.",
                code="STR-504",
            ) from error
        if answer.status_code == 429:
            raise ResourceError(
                "The server was asked too often.", fix="Wait a minute.", code="STR-504"
            )
        if answer.status_code != 200:
            raise _not_accepted()
        return answer.content[:MOST_ANSWER]


def enrol_online(
    door: Door,
    token: str,
    keys: Keys,
    folder: Path,
    server: SiteForm | str,
    tell: Callable[[str, str], None],
    stop: threading.Event,
) -> str | None:
    """Enrol, or resume; returns the site's name once enrolled, None when stopped before that.

    Args:
        door: Whose CA has been compared.
        token: From the operator's invitation.
        keys: This site's.
        folder: Where the papers go.
        server: What goes into site.toml, or ``host:port`` alone.
        tell: Told (site, short fingerprint) while waiting begins.
        stop: Set to leave; run again to resume.

    Raises:
        StillroomError: As the server or the network answered.
    """
    request = keys.request()
    try:
        answer = door.enrol(token, request)
    except TrustError as refused:
        # Our own earlier request may have spent this token: its answer was lost, or we resume.
        try:
            answer = door.status(keys.signing)
        except TrustError:
            raise refused from None
    tell(answer.site, request.check()[1])
    while answer.certificate is None:
        if stop.wait(POLL_S):
            return None
        try:
            answer = door.status(keys.signing)
        except ResourceError as error:
            log.warning("enrol.retry", extra={"code": error.code})
    write_papers(folder, keys, door.consortium, answer.certificate, server=server)
    return answer.site


def finish_offline(folder: Path, kit: Kit, ca_sha256: str, server: SiteForm | str) -> str:
    """Put the papers that came by file in place; returns the site's name.

    Raises:
        TrustError: STR-212, STR-207 the description; STR-203, STR-201 the certificate.
    """
    consortium = read_consortium(kit.consortium.encode("utf-8"), ca_sha256=ca_sha256)
    keys = Keys(load_key(folder / "site.key"), load_signing_key(folder / "signing.key"))
    return write_papers(folder, keys, consortium, kit.certificate, server=server)


def write_papers(
    folder: Path,
    keys: Keys,
    consortium: Consortium,
    certificate_pem: str,
    *,
    server: SiteForm | str,
) -> str:
    """Check the certificate, then write it, the CA, the description and a first site.toml.

    Raises:
        TrustError: STR-201 not issued by the CA for a site; STR-203 for another key.
    """
    certificate = read_certificate(certificate_pem)
    identity = verify_site(certificate, consortium.ca, datetime.now(UTC))
    check_pair(certificate, keys.site)
    write_certificate(folder / "ca.pem", consortium.ca)
    write_durably(folder / "consortium.json", consortium.raw)
    _write_once(folder / "runner.secret", secrets.token_hex(32), mode=_secret_mode(folder))
    form = SiteForm(server) if isinstance(server, str) else server
    _write_once(folder / "site.toml", form.text(identity.name), mode=0o644)
    write_certificate(folder / "site.pem", certificate)
    return identity.name


def _secret_mode(folder: Path) -> int:
    """0640 in a folder that two accounts share by its group, which is what set-group-id is for."""
    return 0o640 if folder.stat().st_mode & stat.S_ISGID else 0o600


def read_certificate(pem: str) -> x509.Certificate:
    """A certificate from a peer.

    Raises:
        TrustError: STR-201, it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii"))
    except (ValueError, x509.InvalidVersion) as error:
        raise TrustError(
            "The server's answer holds no certificate.", fix="Report it.", code="STR-201"
        ) from error


def write_request(path: Path, keys: Keys) -> str:
    """Write what the operator needs, for a site that may not call; returns the fingerprint.

    Raises:
        ConfigError: STR-107, ``path`` exists.
    """
    request = keys.request()
    if path.exists():
        raise ConfigError(f"{path} exists already.", fix="Name a new file.", code="STR-107")
    write_durably(path, request.encode())
    return request.check()[1]


def _write_once(path: Path, text: str, *, mode: int) -> None:
    """Write a file that a person may have edited since; then it stays as it is."""
    if path.exists():
        return
    path.touch(mode=mode)
    path.write_text(text, "utf-8")


def _not_accepted() -> StillroomError:
    return TrustError(
        "The server did not accept the invitation, or refused the request.",
        fix="Ask the operator for a new invitation; tokens work once, for 72 hours.",
        code="STR-211",
    )
