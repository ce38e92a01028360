"""Is this certificate a site of ours, now? Pure: the caller gives the CA and the time.

TLS checks the chain as well; this check is stricter, works on a certificate at rest, and says
which step failed. Nothing that the certificate says about itself appears in a refusal.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from stillroom.common.errors import TrustError
from stillroom.common.pki.names import site_name

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)

# The critical extensions this module acts on. RFC 5280, section 4.2: a certificate with any other
# critical extension must be refused, because it restricts itself in a way we would not honour.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """A verified site.

    Attributes:
        name: Site name, as in the subject alternative name.
        public_key_spki_sha256: SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex; stays the
            same when a certificate is renewed for the same key.
        certificate_sha256: SHA-256 of the DER certificate, lower-case hex.
        not_after: End of validity, aware, UTC.
    """

    name: str
    public_key_spki_sha256: str
    certificate_sha256: str
    not_after: datetime


def verify_site(certificate: x509.Certificate, ca: x509.Certificate, now: datetime) -> SiteIdentity:
    """Who a certificate proves its holder to be.

    Args:
        certificate: What the peer showed.
        ca: The consortium's CA, obtained out of band.
        now: Aware time of the check.

    Raises:
        TrustError: STR-201, saying which of the six steps failed.
    """
    # 1. Issued by our CA: the issuer's name, and a signature that the CA's key verifies.
    _check_chain(certificate, ca)
    # 2. Signed with the one algorithm we issue: no peer may choose a weaker digest.
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise _refused("is not signed with ECDSA and SHA-384")
    # 3. Within its own validity and the CA's. Both ends count as valid (RFC 5280, 4.1.2.5).
    for subject, dated in (("", certificate), ("'s CA", ca)):
        if now < dated.not_valid_before_utc:
            raise _refused(f"{subject} is not yet valid", fix="Check this machine's clock.")
        if now > dated.not_valid_after_utc:
            raise _refused(
                f"{subject} has expired", fix="Renew it, and check this machine's clock."
            )
    # 4. Meant for a TLS client, and for nothing else.
    _check_usage(certificate)
    # 5. Names exactly one site.
    name = site_name(certificate)
    # 6. Holds the kind of key that is also a Flower node key.
    key = certificate.public_key()
    if not _is_p384(key):
        raise _refused("does not hold a P-384 key")
    return SiteIdentity(
        name=name,
        public_key_spki_sha256=spki_sha256(key),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_after=certificate.not_valid_after_utc,
    )


def spki_sha256(public_key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of the key's DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), lower-case hex."""
    der = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def flower_public_key(public_key: CertificatePublicKeyTypes) -> bytes:
    """The key as Flower 1.41 writes it, before base64, into the ``flwr-public-key`` header.

    PEM SubjectPublicKeyInfo, as in ``flwr.supercore.primitives.asymmetric``; a test compares them.
    """
    return public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _check_chain(certificate: x509.Certificate, ca: x509.Certificate) -> None:
    constraints = _extension(ca, x509.BasicConstraints)
    usage = _extension(ca, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise _refused("was checked against a file that is not a CA certificate")
    if not _is_p384(ca.public_key()):
        raise _refused("was checked against a CA that does not hold a P-384 key")
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _refused("was not issued by this consortium's CA") from error


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise _refused("has extensions that cannot be read") from error
    if any(item.critical and item.oid not in _UNDERSTOOD for item in extensions):
        raise _refused("has a critical extension that is not understood")
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or constraints.ca:
        raise _refused("is, or may be, a CA")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise _refused("may not sign a handshake")
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or list(purposes) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise _refused("is not for a TLS client alone")


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


def _is_p384(key: CertificatePublicKeyTypes) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _refused(
    how: str, fix: str = "Use a site certificate issued by this consortium."
) -> TrustError:
    joint = "" if how.startswith("'") else " "
    return TrustError(f"A certificate{joint}{how.strip()}.", fix=fix, code="STR-201")
