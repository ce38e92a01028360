"""The log on disk: what is appended stays, whatever fails, and nothing else can be told."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.errors import TrustError
from stillroom.common.tlog.checkpoint import cosign, cosignatures
from stillroom.common.tlog.folder import LogFolder, read_checkpoint
from stillroom.common.tlog.merkle import Tree, leaf_hash, verify_consistency
from stillroom.common.tlog.note import COSIGNATURE, Note, Verifier
from stillroom.common.tlog.tiles import tile, tile_path, tiles_of
from stillroom.server.log import Log, published

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log", tmp_path / "guard", "log.example.org/tavi", KEY)


def entries(start: int, end: int) -> list[bytes]:
    return [b'{"entry":%d}' % number for number in range(start, end)]


def check(log: Log) -> list[bytes]:
    """Read the whole log as a stranger would: every tile, every entry, the head."""
    head, _ = read_checkpoint(log.folder, log.verifier)
    folder = LogFolder(log.folder, head.size)
    found = [entry for _, entry in folder.entries()]
    tree = Tree(map(leaf_hash, found))
    assert tree.root() == head.root
    for level, index, width in tiles_of(head.size):
        data = (log.folder / tile_path(level, index, width)).read_bytes()
        assert data == tile(tree, level, index, width)
    return found


@pytest.mark.parametrize("steps", [(1,), (255, 1, 1), (256,), (300, 700), (1, 511, 1, 300)])
def test_append(log: Log, steps: tuple[int, ...]) -> None:
    """Whatever the batches, the log is the entries in order, and every head continues the last."""
    size, heads = 0, []
    for step in steps:
        assert log.append(entries(size, size + step)) == range(size, size + step)
        size += step
        heads.append(log.head())

    assert check(log) == entries(0, size)
    for old, new in itertools.pairwise(heads):
        path = LogFolder(log.folder, new.size).consistency(old.size)
        assert verify_consistency(old.size, old.root, new.size, new.root, path)


def test_proofs_from_disk(log: Log) -> None:
    """Proofs made from tiles verify under the published checkpoint."""
    log.append(entries(0, 600))
    head, note = published(log)
    folder = LogFolder(log.folder, head.size)
    for index in (0, 255, 256, 511, 512, 599):
        proof = folder.proof(index, note)
        assert proof.verify(leaf_hash(folder.entry(index)), log.verifier) == head


def test_cosignatures_are_published(log: Log) -> None:
    """A witness's line joins the checkpoint, unless the log has moved on meanwhile."""
    log.append(entries(0, 3))
    witness = Ed25519PrivateKey.generate()
    north = Verifier("north", COSIGNATURE, witness.public_key().public_bytes_raw())
    _, note = published(log)
    signed = Note(note.text, (*note.signatures, cosign(note, "north", witness, 7)))

    log.cosigned(signed)

    assert [item.name for item in cosignatures(published(log)[1], [north])[0]] == ["north"]
    log.append(entries(3, 4))
    log.cosigned(signed)
    assert log.head().size == 4
    assert cosignatures(published(log)[1], [north]) == ([], [])


def restore(log: Log, backup: Path) -> None:
    shutil.rmtree(log.folder)
    shutil.copytree(backup, log.folder)


def test_a_restored_backup_is_not_continued(log: Log, tmp_path: Path) -> None:
    """Yesterday's disk, with today's guard: nothing is appended, nothing is lost."""
    log.append(entries(0, 5))
    shutil.copytree(log.folder, tmp_path / "yesterday")
    log.append(entries(5, 300))
    restore(log, tmp_path / "yesterday")

    for call in (log.head, lambda: log.append([b"x"])):
        with pytest.raises(TrustError) as caught:
            call()
        assert caught.value.code == "STR-221"


def test_a_lost_guard_is_not_made_up(log: Log) -> None:
    """A log without its guard could be an old copy; a person has to look."""
    log.append(entries(0, 5))
    log.guard.unlink()
    with pytest.raises(TrustError, match="knows less"):
        log.append([b"x"])


def test_an_older_guard_is_refused(log: Log) -> None:
    """A guard that was rolled back with the machine does not allow a fork."""
    log.append(entries(0, 5))
    old = log.guard.read_bytes()
    log.append(entries(5, 6))
    log.guard.write_bytes(old)
    with pytest.raises(TrustError, match="knows less"):
        log.head()


def test_another_logs_files_are_refused(log: Log, tmp_path: Path) -> None:
    """A checkpoint under another key is no checkpoint of ours."""
    other = Log(log.folder, log.guard, log.origin, Ed25519PrivateKey.generate())
    other.append([b"x"])
    with pytest.raises(TrustError, match="not signed"):
        log.append([b"y"])


def test_damaged_tiles_are_not_signed_over(log: Log) -> None:
    """A bit that flipped on the disk is found before the next head is signed."""
    log.append(entries(0, 300))
    before = log.guard.read_bytes()
    path = log.folder / tile_path(0, 1, 44)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)

    with pytest.raises(TrustError, match="tiles"):
        log.append([b"x"])
    assert log.guard.read_bytes() == before


def test_partial_tiles_go_when_the_full_one_is_there(log: Log) -> None:
    """Else a log would keep every width its last tile ever had; earlier heads read the full ones."""
    log.append(entries(0, 250))
    head = log.head()
    log.append(entries(250, 255))
    assert (log.folder / tile_path(0, 0, 250)).exists()
    log.append(entries(255, 600))

    assert not (log.folder / "tile/0/000.p").exists()
    assert not (log.folder / "tile/entries/000.p").exists()
    assert LogFolder(log.folder, head.size).root() == head.root
    assert check(log) == entries(0, 600)


def test_two_processes_append_one_after_the_other(log: Log) -> None:
    """Entries of both are there, each batch in one piece."""
    log.append(entries(0, 1))
    children = []
    for who in range(2):
        child = os.fork()
        if child == 0:
            for number in range(20):
                log.append([b"%d %d %d" % (who, number, part) for part in range(3)])
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    found = check(log)[1:]

    assert len(found) == 120
    for at in range(0, 120, 3):
        who, number, _ = found[at].split()
        assert found[at : at + 3] == [b"%s %s %d" % (who, number, part) for part in range(3)]
