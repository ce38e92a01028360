"""Which keys a reader of the log trusts: the log's own and its witnesses'. Pure."""

import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from stillroom.common.consortium import Consortium
from stillroom.common.errors import TrustError
from stillroom.common.tlog.note import COSIGNATURE, ED25519, Verifier


def log_origin(consortium: str) -> str:
    """The log's name: the consortium's in lower case, runs of other characters as one hyphen."""
    slug = re.sub(r"[^a-z0-9]+", "-", consortium.lower()).strip("-")
    return f"{slug or 'consortium'}/log"


def log_verifier(consortium: Consortium) -> Verifier:
    """What proves a checkpoint of this consortium's log.

    Raises:
        TrustError: STR-222, its description names no key for a log.
    """
    if consortium.log_key_hex is None:
        raise TrustError(
            "The consortium's description names no key for its log.",
            fix="Ask the operator for the present consortium.json.",
            code="STR-222",
        )
    return Verifier(log_origin(consortium.name), ED25519, bytes.fromhex(consortium.log_key_hex))


def witness(site: str, signing_key: str | Ed25519PublicKey) -> Verifier:
    """What proves a site's cosignature; ``signing_key`` in hex or as a key."""
    if isinstance(signing_key, Ed25519PublicKey):
        return Verifier(site, COSIGNATURE, signing_key.public_bytes_raw())
    return Verifier(site, COSIGNATURE, bytes.fromhex(signing_key))
