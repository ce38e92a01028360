"""Is the holder of this certificate still one of us? Asked on every request, not per connection.

The registry's rows are kept in memory and read again when SQLite's data version says that another
process has committed: a revocation acts on the next request, and a check costs microseconds.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stillroom.common.errors import StillroomError
from stillroom.common.pki.names import site_name
from stillroom.common.pki.verify import spki_sha256, verify_site
from stillroom.server.store.members import ENROLLED, REVOKED
from stillroom.server.store.registry import Registry

MOST_SOUND = 1024
"""Certificates whose signature is remembered to hold; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as TLS proved it.

    Attributes:
        site: Name in the certificate; None when it names none.
        certificate_sha256: Fingerprint, lower-case hex.
        public_key: PEM SubjectPublicKeyInfo, the form Flower puts into its header.
        tls_version: As negotiated, e.g. ``TLSv1.3``.
        certificate: The certificate itself.
    """

    site: str | None
    certificate_sha256: str
    public_key: bytes
    tls_version: str
    certificate: x509.Certificate | None = None


def read_peer(der: bytes, tls_version: str) -> Peer | None:
    """The peer that showed this certificate in a finished handshake; None when it is unreadable."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public_key = certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return None
    try:
        site: str | None = site_name(certificate)
    except StillroomError:
        site = None
    return Peer(
        site=site,
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        public_key=public_key,
        tls_version=tls_version,
        certificate=certificate,
    )


class Members:
    """Who is in. Belongs to one thread: that of the edge's event loop."""

    def __init__(self, ca: x509.Certificate, registry: Path | None) -> None:
        """Take the CA, and the registry's file; without one every certificate of the CA is in.

        Raises:
            ConfigError: STR-101, the registry cannot be opened.
        """
        self._ca = ca
        self._registry = Registry(registry, read_only=True) if registry else None
        self._sound: dict[str, None] = {}
        self._version: int | None = None
        self._status: dict[str, tuple[str, str | None]] = {}

    def refusal(self, peer: Peer | None) -> str | None:
        """Why this peer may not speak now; None when it may."""
        if peer is None or peer.certificate is None:
            return "no-site-certificate"
        now = datetime.now(UTC)
        # TLS looked at the time when the connection was made; it may be open for days.
        if now > peer.certificate.not_valid_after_utc:
            return "expired"
        if peer.certificate_sha256 not in self._sound:
            if why := certificate_refusal(peer, self._ca, now):
                return why
            self._sound[peer.certificate_sha256] = None
            while len(self._sound) > MOST_SOUND:
                del self._sound[next(iter(self._sound))]
        if self._registry is None:
            return None
        version = self._registry.version()
        if version != self._version:
            self._status = {s.name: (s.status, s.spki_sha256) for s in self._registry.sites()}
            self._version = version
        status, spki = self._status.get(str(peer.site), ("unknown", None))
        if status == REVOKED:
            return "revoked"
        if status != ENROLLED:
            return "not-enrolled"
        return None if spki == spki_sha256(peer.certificate.public_key()) else "other-key"

    def close(self) -> None:
        """Close the registry."""
        if self._registry is not None:
            self._registry.close()


def certificate_refusal(peer: Peer, ca: x509.Certificate, now: datetime) -> str | None:
    """What is wrong with a certificate in itself; stricter than TLS. Pure."""
    certificate = peer.certificate
    if certificate is None:
        return "no-site-certificate"
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return "weak-key"
    if peer.site is None:
        return "no-site-certificate"
    try:
        verify_site(certificate, ca, now)
    except StillroomError:
        return "not-a-site-certificate"
    return None


def handshake_cause(reason: str, verify_message: str) -> str:
    """A short name for why OpenSSL ended a handshake. Pure.

    Args:
        reason: ``SSLError.reason``.
        verify_message: ``SSLCertVerificationError.verify_message``; empty for other errors.
    """
    if verify_message:
        for text, cause in _VERIFY_CAUSES:
            if text in verify_message:
                return cause
        return "tls-certificate"
    return _REASONS.get(reason, "tls-other")


_VERIFY_CAUSES = (
    ("expired", "tls-expired"),
    ("not yet valid", "tls-not-yet-valid"),
    ("self-signed", "tls-self-signed"),
    ("self signed", "tls-self-signed"),
    ("local issuer", "tls-other-ca"),
    ("signature failure", "tls-other-ca"),
    ("purpose", "tls-wrong-usage"),
)
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "tls-no-certificate",
    "UNSUPPORTED_PROTOCOL": "tls-version",
    "VERSION_TOO_LOW": "tls-version",
    "HTTP_REQUEST": "tls-plaintext",
    "WRONG_VERSION_NUMBER": "tls-plaintext",
    "BAD_SIGNATURE": "tls-key-not-held",
}
