"""The depot's folder: what is kept, what is refused, and who sees what."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillroom.common.errors import ContractError, ResourceError
from stillroom.server import upload as upload_module
from stillroom.server.depot import MOST_HELD, MOST_OPEN, Depot, shelf_of
from stillroom.server.upload import TooMany, WrongOffset

STUDY, OTHER = "ab" * 32, "cd" * 32
DATA = bytes(range(256)) * 16
NAME = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    """An empty one that takes at most a MiB."""
    return Depot(tmp_path / "depot", 1 << 20)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file to publish."""
    path = tmp_path / "model"
    path.write_bytes(DATA)
    return path


def named(number: int) -> tuple[str, bytes]:
    """A small file that is another one for every number."""
    data = number.to_bytes(4, "little")
    return hashlib.sha256(data).hexdigest(), data


def test_published_until_withdrawn(depot: Depot, model: Path) -> None:
    """Twice is once; other studies keep theirs; the source may go."""
    for study in (STUDY, STUDY, OTHER):
        depot.publish(study, model, NAME)
    model.unlink()
    found = depot.outgoing(NAME)
    assert found is not None
    assert found.read_bytes() == DATA

    depot.keep_only(STUDY, [NAME])
    assert depot.outgoing(NAME) is not None
    depot.keep_only(STUDY, [])
    assert depot.outgoing(NAME) is not None
    depot.keep_only(OTHER, [])
    assert depot.outgoing(NAME) is None


def test_publishing_costs_no_copy_where_links_work(
    depot: Depot, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link on one filesystem; a copy across two."""
    depot.publish(STUDY, model, NAME)
    linked = depot.outgoing(NAME)
    assert linked is not None
    assert linked.samefile(model)

    def fails(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", fails)
    depot.keep_only(STUDY, [])
    depot.publish(STUDY, model, NAME)
    copied = depot.outgoing(NAME)
    assert copied is not None
    assert not copied.samefile(model)
    assert copied.read_bytes() == DATA


def test_publishing_what_is_not_there(depot: Depot, tmp_path: Path) -> None:
    """A mistake of the caller's, told as such."""
    with pytest.raises(FileNotFoundError):
        depot.publish(STUDY, tmp_path / "nothing", NAME)
    assert depot.outgoing(NAME) is None


def test_an_upload_in_pieces(depot: Depot) -> None:
    """It is not there before all of it is, and then it is."""
    assert depot.have("north", NAME) == (0, False)
    assert depot.append("north", NAME, [DATA[:100]], offset=0, total=len(DATA)) == (100, False)
    assert depot.have("north", NAME) == (100, False)
    assert depot.received("north", NAME) is None

    pieces = [DATA[100:1000], DATA[1000:]]
    assert depot.append("north", NAME, pieces, offset=100, total=len(DATA)) == (len(DATA), True)
    found = depot.received("north", NAME)
    assert found is not None
    assert found.read_bytes() == DATA
    assert depot.have("north", NAME) == (len(DATA), True)

    depot.discard("north", NAME)
    depot.discard("north", NAME)
    assert depot.have("north", NAME) == (0, False)


@pytest.mark.parametrize("split", [0, 1, 4000])
def test_other_bytes_are_thrown_away(depot: Depot, split: int) -> None:
    """In one go or after a break: a wrong digest leaves nothing behind."""
    wrong = b"x" + DATA[1:]
    if split:
        depot.append("north", NAME, [wrong[:split]], offset=0, total=len(DATA))
    with pytest.raises(ContractError) as caught:
        depot.append("north", NAME, [wrong[split:]], offset=split, total=len(DATA))

    assert caught.value.code == "STR-311"
    assert depot.have("north", NAME) == (0, False)


def test_sites_are_apart(depot: Depot) -> None:
    """The same digest twice is two files; nobody sees or removes another one's."""
    depot.append("north", NAME, [DATA], offset=0, total=len(DATA))
    assert depot.have("south", NAME) == (0, False)
    assert depot.received("south", NAME) is None
    depot.append("south", NAME, [DATA[:9]], offset=0, total=len(DATA))
    assert depot.have("south", NAME) == (9, False)
    depot.discard("south", NAME)

    assert depot.have("north", NAME) == (len(DATA), True)
    assert depot.outgoing(NAME) is None


@pytest.mark.parametrize("offset", [0, 9, 11, 4096])
def test_only_where_the_upload_stands(depot: Depot, offset: int) -> None:
    """Neither before nor behind; the refusal says where."""
    depot.append("north", NAME, [DATA[:10]], offset=0, total=len(DATA))
    with pytest.raises(WrongOffset) as caught:
        depot.append("north", NAME, [DATA], offset=offset, total=len(DATA))
    assert caught.value.have == 10


def test_whole_is_whole(depot: Depot) -> None:
    """A complete file takes nothing more."""
    depot.append("north", NAME, [DATA], offset=0, total=len(DATA))
    for offset in (0, len(DATA)):
        with pytest.raises(WrongOffset):
            depot.append("north", NAME, [b"x"], offset=offset, total=len(DATA) + 1)


def test_one_writer(depot: Depot) -> None:
    """A second connection for the same file waits for the first to let go."""
    with depot.begin("north", NAME, offset=0, total=9), pytest.raises(WrongOffset):
        depot.begin("north", NAME, offset=0, total=9)
    depot.begin("north", NAME, offset=0, total=9).close()


def test_longer_than_announced(depot: Depot) -> None:
    """The announced size is the end, whatever comes."""
    with pytest.raises(ContractError) as caught:
        depot.append("north", NAME, [DATA], offset=0, total=10)
    assert caught.value.code == "STR-300"
    assert depot.have("north", NAME) == (0, False)


@pytest.mark.parametrize("name", ["", "x", "../north", NAME.upper(), NAME[:-1], f"{NAME}.part"])
def test_names_that_are_none(depot: Depot, model: Path, name: str) -> None:
    """Only a SHA-256 ever becomes a path."""
    with pytest.raises(ContractError):
        depot.have("north", name)
    with pytest.raises(ContractError):
        depot.append("north", name, [DATA], offset=0, total=9)
    with pytest.raises(ContractError):
        depot.discard("north", name)
    with pytest.raises(ContractError):
        depot.publish(STUDY, model, name)
    assert depot.outgoing(name) is None
    assert depot.received("north", name) is None


@pytest.mark.parametrize("site", ["", "..", "a/b", "North", "a" * 64])
def test_sites_that_are_none(depot: Depot, site: str) -> None:
    """The edge has read the name from a certificate; anything else is a mistake of ours."""
    with pytest.raises(ValueError, match="site"):
        depot.received(site, NAME)


def test_too_large(depot: Depot) -> None:
    """Refused before a byte is taken."""
    with pytest.raises(ContractError) as caught:
        depot.begin("north", NAME, offset=0, total=(1 << 20) + 1)
    assert caught.value.code == "STR-312"


def test_no_room(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that would be filled is not begun to be filled."""
    usage = SimpleNamespace(free=upload_module.RESERVE + 4095)
    monkeypatch.setattr(upload_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError) as caught:
        depot.begin("north", NAME, offset=0, total=4096)
    assert caught.value.code == "STR-503"
    depot.begin("north", NAME, offset=0, total=4095).close()


def test_disk_full_in_the_middle(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fitted stays, and the upload goes on from there."""

    def write(descriptor: int, view: Any) -> int:
        if os.fstat(descriptor).st_size >= 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, view[:500])

    monkeypatch.setattr(upload_module, "write", write)
    with pytest.raises(ResourceError) as caught:
        depot.append("north", NAME, [DATA], offset=0, total=len(DATA))
    assert caught.value.code == "STR-503"
    assert depot.have("north", NAME) == (1000, False)

    monkeypatch.setattr(upload_module, "write", os.write)
    depot.append("north", NAME, [DATA[1000:]], offset=1000, total=len(DATA))
    assert depot.received("north", NAME) is not None


@pytest.mark.parametrize("step", ["fsync", "replace", "sync_folder"])
def test_disk_fails_at_the_end(depot: Depot, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whole or not there; asked again, the rest is done or nothing is left to do."""

    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        owner = {"fsync": upload_module.os, "replace": Path, "sync_folder": upload_module}[step]
        patch.setattr(owner, step, fails)
        with pytest.raises(ResourceError):
            depot.append("north", NAME, [DATA], offset=0, total=len(DATA))
    have, whole = depot.have("north", NAME)
    assert have == len(DATA)
    assert whole == (step == "sync_folder")
    if not whole:
        assert depot.append("north", NAME, [], offset=have, total=have) == (have, True)
    assert depot.received("north", NAME) is not None


def test_discarded_meanwhile(depot: Depot) -> None:
    """The ServerApp may forget an upload that is still coming; it then begins again."""

    def pieces() -> Iterator[bytes]:
        depot.discard("north", NAME)
        yield DATA

    with pytest.raises(WrongOffset) as caught:
        depot.append("north", NAME, pieces(), offset=0, total=len(DATA))
    assert caught.value.have == 0
    assert depot.have("north", NAME) == (0, False)


def test_so_many_at_once(depot: Depot, tmp_path: Path) -> None:
    """A site may send four files at a time; one that nobody sends any more makes room."""
    uploads = [depot.begin("north", named(n)[0], offset=0, total=4) for n in range(MOST_OPEN)]
    with pytest.raises(TooMany):
        depot.begin("north", NAME, offset=0, total=4)
    depot.begin("south", NAME, offset=0, total=4).close()

    uploads[2].close()
    depot.begin("north", NAME, offset=0, total=4).close()
    for upload in uploads:
        upload.close()
    assert depot.have("north", named(2)[0]) == (0, False)
    assert len(list((tmp_path / "depot" / "in" / "north").iterdir())) == MOST_OPEN


def test_what_nobody_comes_for(depot: Depot) -> None:
    """Whole uploads do not fill the disk: the oldest go."""
    for number in range(MOST_HELD + 3):
        name, data = named(number)
        depot.append("north", name, [data], offset=0, total=len(data))
        path = depot.received("north", name)
        assert path is not None
        os.utime(path, ns=(number, number))

    held = [n for n in range(MOST_HELD + 3) if depot.received("north", named(n)[0])]
    assert held == list(range(3, MOST_HELD + 3))


def test_an_update_is_kept_while_another_run_may_wait_for_it(depot: Depot, model: Path) -> None:
    """Whoever still offers the model it was trained from; the last of them lets go of it."""
    update, data = named(1)
    for shelf in (STUDY, OTHER):
        depot.publish(shelf, model, NAME)
    depot.append("north", update, [data], offset=0, total=len(data))
    depot.keep_only(STUDY, [])
    depot.release(STUDY, "north", update, NAME)
    assert depot.received("north", update) is not None
    depot.withdraw(OTHER)
    depot.release(OTHER, "north", update, "no name at all")
    assert depot.received("north", update) is None


def test_uploads_older_than_every_open_round_are_swept(depot: Depot, model: Path) -> None:
    """With an hour to spare; none of them where no round is open; none that is being sent."""
    for number, age_s in ((1, 7200), (2, 1800)):
        name, data = named(number)
        depot.append("north", name, [data], offset=0, total=len(data))
        path = depot.received("north", name)
        assert path is not None
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    depot.publish(STUDY, model, NAME)
    depot.sweep()
    assert [depot.received("north", named(n)[0]) is None for n in (1, 2)] == [True, False]
    with depot.begin("north", named(3)[0], offset=0, total=9) as sending:
        sending.write(b"1234")
        depot.withdraw(STUDY)
        depot.sweep()
        assert depot.received("north", named(2)[0]) is None
        assert depot.have("north", named(3)[0]) == (4, False)


def test_two_runs_have_two_shelves(tmp_path: Path) -> None:
    """By their folders; the same one after every start."""
    names = {shelf_of(STUDY, tmp_path / run) for run in ("a", "b", "c/../a")}

    assert len(names) == 2
