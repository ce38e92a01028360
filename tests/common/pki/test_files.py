"""Keys stay private on disk; certificates are replaced whole."""

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.pki.files import (
    check_pair,
    load_certificate,
    load_key,
    write_certificate,
    write_key,
)
from stillroom.common.pki.issue import new_key
from stillroom.common.pki.verify import spki_sha256

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def test_key_is_its_owners_alone(tmp_path: Path, consortium: Any) -> None:
    """Mode 0600 from the first byte, and the same key comes back."""
    path = tmp_path / "site.key"
    write_key(path, consortium.site_key)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert spki_sha256(load_key(path).public_key()) == spki_sha256(consortium.site_key.public_key())


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key needs a second file, also when the name is a dangling link."""
    path, link = tmp_path / "site.key", tmp_path / "link.key"
    path.write_bytes(b"precious")
    link.symlink_to(tmp_path / "elsewhere.key")

    for taken in (path, link):
        with pytest.raises(ConfigError, match="exists already") as caught:
            write_key(taken, new_key())
        assert caught.value.code == "STR-107"
    assert path.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere.key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """The refusal says which mode it has and how to mend it."""
    path = tmp_path / "site.key"
    write_key(path, new_key())
    path.chmod(mode)

    with pytest.raises(TrustError, match=f"mode {mode:04o}") as caught:
        load_key(path)

    assert caught.value.code == "STR-202"
    assert "chmod 600" in caught.value.fix


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Garbage, an encrypted key, another curve and another algorithm each get one sentence."""
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"secret")
    contents = [
        b"not a key",
        new_key().private_bytes(PEM, PKCS8, locked),
        ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, plain),
        ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, plain),
    ]

    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            load_key(path)
        assert caught.value.code == "STR-101"


def test_missing_places_are_configuration_errors(tmp_path: Path, consortium: Any) -> None:
    """A path that cannot be read or written is named, with its fix."""
    nowhere = tmp_path / "missing" / "file.pem"

    for attempt in (
        lambda: load_key(nowhere),
        lambda: load_certificate(nowhere),
        lambda: write_key(nowhere, consortium.site_key),
        lambda: write_certificate(nowhere, consortium.site),
    ):
        with pytest.raises(ConfigError, match=r"file\.pem") as caught:
            attempt()
        assert caught.value.code == "STR-101"


def test_certificate_is_replaced_in_one_step(tmp_path: Path, consortium: Any) -> None:
    """Renewal leaves the newer certificate, readable by all, and nothing beside it."""
    path = tmp_path / "site.pem"
    write_certificate(path, consortium.server)
    write_certificate(path, consortium.site)

    assert load_certificate(path) == consortium.site
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_holds_one_certificate(tmp_path: Path, consortium: Any) -> None:
    """A bundle is refused rather than its first entry used; so is garbage."""
    bundle, garbage = tmp_path / "bundle.pem", tmp_path / "garbage.pem"
    bundle.write_bytes(consortium.site.public_bytes(PEM) + consortium.ca.public_bytes(PEM))
    garbage.write_bytes(b"not a certificate")

    with pytest.raises(ConfigError, match="more than one"):
        load_certificate(bundle)
    with pytest.raises(ConfigError, match="PEM certificate"):
        load_certificate(garbage)


def test_pairs(consortium: Any) -> None:
    """A certificate and the key it was issued for pass; any other key does not."""
    check_pair(consortium.site, consortium.site_key)

    with pytest.raises(TrustError) as caught:
        check_pair(consortium.site, consortium.server_key)

    assert caught.value.code == "STR-203"
