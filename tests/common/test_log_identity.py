"""Whom a reader of the log trusts: the key in the consortium's description, and the sites'."""

from datetime import UTC, datetime

import pytest

from stillroom.common.consortium import make_consortium, read_consortium
from stillroom.common.errors import TrustError
from stillroom.common.log_identity import log_origin, log_verifier, witness
from stillroom.common.pki.issue import make_ca
from stillroom.common.signing import new_signing_key, public_key_hex
from stillroom.common.tlog.note import COSIGNATURE, ED25519

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CA, CA_KEY = make_ca("Example", 3650, NOW)
OPERATOR, LOG = new_signing_key(), new_signing_key()
OPERATORS = {"first": OPERATOR.public_key()}


def described(*, with_log: bool) -> bytes:
    log_key = LOG.public_key() if with_log else None
    return make_consortium("Heart & Co.", CA, CA_KEY, OPERATORS, OPERATOR, NOW, log_key=log_key)


def test_the_log_is_in_the_description() -> None:
    """Its name follows from the consortium's, its key stands there."""
    verifier = log_verifier(read_consortium(described(with_log=True)))

    assert (verifier.name, verifier.kind) == ("heart-co/log", ED25519)
    assert verifier.public_key == LOG.public_key().public_bytes_raw()


def test_a_description_without_a_log() -> None:
    """An older description still holds; nobody can check a log with it."""
    older = read_consortium(described(with_log=False))

    assert older.log_key_hex is None
    assert b"log_key" not in older.raw
    with pytest.raises(TrustError) as caught:
        log_verifier(older)
    assert caught.value.code == "STR-222"


def test_the_key_is_under_the_signatures() -> None:
    """Another key, or none, in its place is a damaged description."""
    raw = described(with_log=True)
    other = public_key_hex(new_signing_key()).encode()
    mine = public_key_hex(LOG).encode()
    for forged in (raw.replace(mine, other), raw.replace(b'"' + mine + b'"', b"null")):
        with pytest.raises(TrustError) as caught:
            read_consortium(forged)
        assert caught.value.code == "STR-207"


@pytest.mark.parametrize(
    ("name", "origin"),
    [("North", "north/log"), ("  A -- b!", "a-b/log"), ("***", "consortium/log")],
)
def test_origins(name: str, origin: str) -> None:
    """One spelling that a note's key may have: no space, no plus sign."""
    assert log_origin(name) == origin


def test_witnesses() -> None:
    """A site cosigns under its own name, with the key it signs consents with."""
    key = new_signing_key().public_key()
    assert witness("north", key) == witness("north", public_key_hex(key))
    assert witness("north", key).kind == COSIGNATURE
