"""Signatures cover a purpose and canonical bytes, and nothing else verifies."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.errors import TrustError
from stillroom.common.pki.files import load_key, load_signing_key, write_key, write_signing_key
from stillroom.common.pki.issue import new_key
from stillroom.common.signing import (
    key_id,
    new_signing_key,
    public_key_from_hex,
    public_key_hex,
    sign,
    signed_bytes,
    verify,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "signatures.json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def cases() -> list[dict[str, Any]]:
    """The golden signatures."""
    loaded: list[dict[str, Any]] = json.loads(GOLDEN.read_text("utf-8"))["signatures"]
    return loaded


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["purpose"])
def test_signed_bytes_never_change(case: dict[str, Any]) -> None:
    """A key of 00..1f signs these payloads to these bytes, today and in ten years."""
    assert signed_bytes(case["purpose"], case["payload"]).decode("utf-8") == case["signed"]
    assert sign(KEY, case["purpose"], case["payload"]) == case["signature"]
    public = json.loads(GOLDEN.read_text("utf-8"))
    assert (public_key_hex(KEY), key_id(KEY)) == (public["public_key_hex"], public["key_id"])
    verify(public_key_from_hex(public["public_key_hex"]), **without(case, "signed"))


def without(case: dict[str, Any], key: str) -> dict[str, Any]:
    """``case`` without one key."""
    return {name: value for name, value in case.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "withdrawal"},
        {"payload": {"study": "b" * 64}},
        {"signature": "0" * 128},
        {"signature": ""},
        {"signature": "xyz"},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    """Another purpose, payload or signature never verifies."""
    payload = {"study": "a" * 64}
    good = {"purpose": "consent", "payload": payload, "signature": sign(KEY, "consent", payload)}

    with pytest.raises(TrustError) as caught:
        verify(KEY.public_key(), **(good | change))

    assert caught.value.code == "STR-207"


def test_a_signature_has_one_spelling() -> None:
    """Capitals or white space in the hex are refused, or one consent would have many digests."""
    good = sign(KEY, "consent", 1)
    for other in (good.upper(), good[:64] + " " + good[64:]):
        with pytest.raises(TrustError):
            verify(KEY.public_key(), "consent", 1, other)


def test_another_key_is_refused() -> None:
    """Only the signer's key verifies."""
    with pytest.raises(TrustError):
        verify(new_signing_key().public_key(), "consent", 1, sign(KEY, "consent", 1))


@pytest.mark.parametrize("text", ["", "00", "g" * 64, "A" * 64])
def test_a_bad_public_key_is_refused(text: str) -> None:
    """A key that is not 64 lower-case hex digits ends in a code."""
    with pytest.raises(TrustError) as caught:
        public_key_from_hex(text)
    assert caught.value.code == "STR-207"


@pytest.mark.parametrize("purpose", ["", "Consent", "consent\n", "a/b"])
def test_a_purpose_is_a_plain_word(purpose: str) -> None:
    """Nothing that could break out of the prefix is taken as a purpose."""
    with pytest.raises(ValueError, match="not a purpose"):
        signed_bytes(purpose, 1)


def test_signing_keys_live_in_files_of_their_own(tmp_path: Path) -> None:
    """An Ed25519 key comes back from its file, 0600, and never passes for a site key."""
    path = tmp_path / "signing.key"
    write_signing_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_id(load_signing_key(path)) == key_id(KEY)
    with pytest.raises(Exception, match="P-384"):
        load_key(path)
    write_key(tmp_path / "site.key", new_key())
    with pytest.raises(Exception, match="Ed25519"):
        load_signing_key(tmp_path / "site.key")
    path.chmod(0o640)
    with pytest.raises(TrustError) as caught:
        load_signing_key(path)
    assert caught.value.code == "STR-202"
