r"""Ed25519 signatures over exactly one meaning. Pure: keys and bytes in, bytes out.

Every signature covers ``b"stillroom/<purpose>/v1\n"`` followed by the payload's canonical bytes.
The purpose is part of what is signed, so a signature under a consent can never be shown as one
under a study, a withdrawal or a consortium description. Scheme: RFC 8032, pure Ed25519.
"""

import hashlib
import re
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import TrustError

_PURPOSE = re.compile(r"[a-z][a-z-]{1,30}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")


def new_signing_key() -> Ed25519PrivateKey:
    """A fresh Ed25519 key."""
    return Ed25519PrivateKey.generate()


def public_key_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The raw public key, 64 lower-case hex digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


def public_key_from_hex(text: str) -> Ed25519PublicKey:
    """The public key in 64 lower-case hex digits.

    Raises:
        TrustError: STR-207, it is not one.
    """
    if not _PUBLIC_KEY.fullmatch(text):
        raise _bad("A public key is not 64 hex digits.")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def key_id(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """A key's short name: the first 16 hex digits of SHA-256 of the raw public key."""
    return hashlib.sha256(bytes.fromhex(public_key_hex(key))).hexdigest()[:16]


def signed_bytes(purpose: str, payload: Any) -> bytes:
    """The exact bytes under a signature.

    Args:
        purpose: Lower-case words and hyphens, e.g. ``consent``.
        payload: What is signed; JSON values as ``canonical_bytes`` takes them.
    """
    if not _PURPOSE.fullmatch(purpose):
        raise ValueError(f"{purpose!r} is not a purpose")
    return f"stillroom/{purpose}/v1\n".encode("ascii") + canonical_bytes(payload)


def sign(key: Ed25519PrivateKey, purpose: str, payload: Any) -> str:
    """Signature of ``payload`` for ``purpose``, 128 lower-case hex digits."""
    return key.sign(signed_bytes(purpose, payload)).hex()


def verify(key: Ed25519PublicKey, purpose: str, payload: Any, signature: str) -> None:
    """Refuse a signature that ``key`` did not make over exactly this payload and purpose.

    Raises:
        TrustError: STR-207.
    """
    # Python's fromhex takes white space and capitals; one signature must have one spelling.
    if not _SIGNATURE.fullmatch(signature):
        raise _bad(f"The signature of a {purpose} is not 128 hex digits.")
    try:
        key.verify(bytes.fromhex(signature), signed_bytes(purpose, payload))
    except InvalidSignature as error:
        raise _bad(f"The signature of a {purpose} does not hold.") from error


def _bad(what: str) -> TrustError:
    return TrustError(
        what, fix="Get the file again from whoever signed it; do not use this copy.", code="STR-207"
    )
