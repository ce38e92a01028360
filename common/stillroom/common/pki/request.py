"""What a site sends to be enrolled: a certificate request and a signing key. Pure.

Nothing in a request decides who the site is: the operator's invitation names it. A request only
proves that whoever made it holds both private keys.
"""

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from stillroom.common.errors import TrustError

MOST_BYTES = 4096
"""A P-384 request is about 450 bytes of PEM."""


def make_request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request for ``key``, PEM. It names nobody."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM).decode()


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key a request asks to certify, proven to be its maker's.

    Raises:
        TrustError: STR-201. Too long, unreadable, not signed by its own key, or a key of
            another kind than P-384.
    """
    try:
        if len(pem) > MOST_BYTES:
            raise ValueError
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
        holds = request.is_signature_valid
    except (
        *(ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature),
        x509.InvalidVersion,  # not a ValueError
    ) as error:
        raise _refused("cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _refused("does not hold a P-384 key")
    if not holds:
        raise _refused("is not signed by its own key")
    return key


def short_fingerprint(key: ec.EllipticCurvePublicKey, signing: Ed25519PublicKey) -> str:
    """What two people compare by telephone: 16 hex digits over both public keys.

    The first 8 bytes of SHA-256 over the DER SubjectPublicKeyInfo and the raw Ed25519 key. Making
    other keys with the same value takes 2^64 tries within the 72 hours of an invitation.
    """
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki + signing.public_bytes_raw()).hexdigest()[:16]


def _refused(how: str) -> TrustError:
    return TrustError(
        f"The certificate request {how}.",
        fix="Make a new one with `stillroom-client enrol`.",
        code="STR-201",
    )
