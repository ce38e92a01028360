"""Another implementation reads the same log and comes to the same end."""

import shutil
from pathlib import Path

import generation
import independent
import pytest
from generation import SITES, World

from stillroom.common.tlog.folder import LogFolder
from stillroom.common.tlog.merkle import verify_consistency

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def keys(world: World) -> tuple[str, bytes, dict[str, bytes]]:
    """What a stranger is told."""
    witnesses = {site: world.keys[site].public_key().public_bytes_raw() for site in SITES}
    return world.origin, world.log_key.public_key().public_bytes_raw(), witnesses


def test_root_tiles_and_signatures(world: World) -> None:
    """Root, every tile, the log's signature and every cosignature, by other code and OpenSSL."""
    found = independent.verify(world.log, *keys(world))

    assert found["size"] == len(world.entries)
    assert found["root"] == LogFolder(world.log, len(world.entries)).root()
    assert None not in found["cosigned"].values()


def test_inclusion(world: World) -> None:
    """The release's proof leads to the root by other code too, and no other entry's does."""
    name, key, _ = keys(world)
    data = (world.release / "proof/entry.tlog-proof").read_bytes()

    assert independent.check_proof(data, world.entries[-1], name, key) == len(world.entries) - 1
    with pytest.raises(independent.WrongError, match="root"):
        independent.check_proof(data, world.entries[-2], name, key)
    assert len(data) <= 4096


def test_consistency(world: World) -> None:
    """A kept checkpoint, read by other code, is the root of the first entries; our proof says so too."""
    name, key, _ = keys(world)
    size, root = independent.checkpoint(world.seen("river").read_bytes(), name, key)

    assert independent.tree_hash(world.entries[:size]) == root
    folder = LogFolder(world.log, len(world.entries))
    path = folder.consistency(size)
    assert verify_consistency(size, root, folder.size, independent.tree_hash(world.entries), path)


def test_it_is_no_rubber_stamp(world: World, tmp_path: Path) -> None:
    """A changed byte, and a witness's key that is another's, are found by it."""
    name, key, witnesses = keys(world)
    copy = shutil.copytree(world.log, tmp_path / "log")
    path = copy / "tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b"distil", b"distal", 1))

    with pytest.raises(independent.WrongError, match="root"):
        independent.verify(copy, name, key, witnesses)
    other = {"north": generation.key("other").public_key().public_bytes_raw()}
    assert independent.verify(world.log, name, key, other)["cosigned"] == {"north": None}


def test_it_shares_no_code() -> None:
    """It imports nothing of ours."""
    assert "import stillroom" not in Path(independent.__file__).read_text("utf-8")
    assert "from stillroom" not in Path(independent.__file__).read_text("utf-8")
