"""kill -9 at every step of the gate's sequence, with the disk keeping or losing what was not synced.

Three laws: whatever reached the wire is in the ledger; no acknowledged entry is ever lost; and what
rounding took from an update is added to the next one exactly once, whenever the courier died.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attempts
import forgery
import pytest
from attempts import Case, Wire

from stillroom.client.ledger import Disk, Entry, Ledger, check, read
from stillroom.common.messages import pack_task

pytestmark = pytest.mark.usefixtures("inside_a_task")


def _error(request: attempts.Message) -> attempts.Message:
    return attempts.Message(attempts.Error(1, attempts.PATIENT), reply_to=request)


HONEST = Case("honest", ())
SMUGGLED = Case("exception text", ("STR-300",), reply=_error)


class Death:
    """Counts steps, and ends this process at one of them as kill -9 does."""

    left = 0

    @classmethod
    def step(cls) -> None:
        """One step further."""
        cls.left -= 1
        if cls.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def note(path: Path, text: str) -> None:
    """Told to the world outside the process that dies."""
    with path.open("a") as stream:
        stream.write(text + "\n")


class DyingDisk(Disk):
    """A disk that says how much of the ledger it has promised to keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, descriptor: int, data: bytes) -> int:
        """Half of it, so that there is a moment between two halves."""
        Death.step()
        return super().write(descriptor, data[: max(1, len(data) // 2)])

    def fsync(self, descriptor: int) -> None:
        """As asked."""
        Death.step()
        super().fsync(descriptor)
        note(self.folder / "synced", str((self.folder / "ledger.jsonl").stat().st_size))
        Death.step()


class AcknowledgingLedger(Ledger):
    """Says which entries the gate was told are safe."""

    def append(self, entry: Entry) -> int:
        """As the ledger's, and a note of its answer."""
        number = super().append(entry)
        note(self.path.parent / "acknowledged", f"{number} {entry.kind}")
        return number


class DyingWire(Wire):
    """A wire on which a byte is gone for good the moment it is handed over."""

    folder = Path()

    def confirm(self, run_id: int, message_id: str) -> None:
        """A step between task and reply."""
        Death.step()
        super().confirm(run_id, message_id)

    def fetch(self, sha256: str, nbytes: int, into: Path) -> int:
        """A model comes."""
        Death.step()
        return super().fetch(sha256, nbytes, into)

    def send(self, sha256: str, path: Path, nbytes: int) -> int:
        """The file leaves."""
        note(self.folder / "wire", json.dumps(["file", sha256]))
        Death.step()
        sent = super().send(sha256, path, nbytes)
        Death.step()
        return sent

    def push(self, reply, tree, seconds):  # type: ignore[no-untyped-def]
        """The announcement leaves."""
        note(self.folder / "wire", json.dumps(["push", reply.has_error()]))
        Death.step()
        return super().push(reply, tree, seconds)

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """A part leaves."""
        note(self.folder / "wire", json.dumps(["object", object_id]))
        Death.step()
        super().push_object(run_id, session, object_id, content)
        Death.step()


def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call of the operating system with a step before and after it."""

    def made(*arguments: Any, **more: Any) -> Any:
        Death.step()
        result = call(*arguments, **more)
        Death.step()
        return result

    return made


def die(case: Case, folder: Path, at: int) -> bool:
    """Run ``case`` in a process that is killed at step ``at``; False when it got through.

    A step is a call on the wire, a write or fsync of the ledger, and every fsync, rename and
    removal of whatever else the courier keeps.
    """
    child = os.fork()
    if child == 0:
        try:
            Death.left, DyingWire.folder = at, folder
            for name in ("replace", "fsync", "unlink"):
                setattr(os, name, stepping(getattr(os, name)))
            ledger = AcknowledgingLedger(folder / "ledger.jsonl", disk=DyingDisk(folder))
            attempts.attempt(case, folder, ledger=ledger, kind_of_wire=DyingWire)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def lines(path: Path) -> list[str]:
    """What was noted, if anything."""
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0], ids=["lost", "torn", "kept"])
@pytest.mark.parametrize("case", [HONEST, SMUGGLED], ids=lambda case: case.name)
def test_killed_at_every_step(tmp_path: Path, case: Case, kept: float) -> None:
    """The ledger knows of everything that left, and of everything it said it knew."""
    at, killed = 0, True
    while killed:
        folder = tmp_path / str(at)
        folder.mkdir()
        path = folder / "ledger.jsonl"
        killed = die(case, folder, at)
        if path.exists():
            synced = int((lines(folder / "synced") or ["0"])[-1])
            os.truncate(path, synced + round((path.stat().st_size - synced) * kept))
        with Ledger(path):
            found = list(read(path))
        assert [f"{line.sequence} {line.kind}" for line in found][
            : len(lines(folder / "acknowledged"))
        ] == lines(folder / "acknowledged")
        left = [json.loads(line) for line in lines(folder / "wire")]
        if left:
            assert found[-1].kind == ("sent" if case is HONEST else "refused")
            assert found[-1].content == (
                attempts.digest(attempts.GOOD_FILE) if case is HONEST else ""
            )
        assert check(path).torn == b""
        at += 1
    assert at > (40 if case is HONEST else 25)


def in_round(number: int, encoding: str) -> Case:
    """An honest update of a round, as a change."""
    prepared = attempts.study(encoding)
    content = lambda: pack_task(attempts.ask(number=number, prepared=prepared))  # noqa: E731
    return Case(f"round {number}", (), content=content, prepared=prepared)


def left(case: Case, folder: Path) -> dict[str, bytes]:
    """Run a round to its end; the file that left."""
    return attempts.attempt(case, folder).wire.sent


@pytest.mark.parametrize(("encoding", "stride"), [("bf16-delta", 2), ("int8-delta", 5)])
def test_what_rounding_took_comes_back_once(tmp_path: Path, encoding: str, stride: int) -> None:
    """Killed at any step of round 2 and asked again, it sends the bytes it would have sent.

    What it keeps for round 3 is the same, too. Files that were never fsynced are cut in half at
    the kill.
    """
    one, two, three = (in_round(number, encoding) for number in (1, 2, 3))
    plain, started = tmp_path / "plain", tmp_path / "started"
    plain.mkdir()
    first = left(one, plain)
    shutil.copytree(plain, started)
    second, kept = left(two, plain), record(plain)
    # The same update each time, but for what was left over.
    assert len({*first, *second, *left(three, plain)}) == 3

    at, killed = 0, True
    while killed:
        folder = tmp_path / "killed"
        shutil.copytree(started, folder)
        killed = die(two, folder, at)
        gone = [json.loads(line)[1] for line in lines(folder / "wire") if "file" in line]
        assert gone in ([], list(second))
        for path in folder.rglob("*.blob"):
            os.truncate(path, path.stat().st_size // 2)
        assert left(two, folder) == second
        assert record(folder) == kept
        shutil.rmtree(folder)
        at += stride
    assert at > 40


def record(folder: Path) -> bytes:
    """What the outbox knows: digests of the file, of what went into it and of what is left."""
    (found,) = folder.rglob("record.json")
    return found.read_bytes()


def test_a_refused_update_takes_nothing_with_it(tmp_path: Path) -> None:
    """What rounding took is still there for the next update, and no file is left behind."""
    good, bad = in_round(1, "bf16-delta"), in_round(2, "bf16-delta")
    again = in_round(2, "bf16-delta")
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    other.mkdir()
    left(good, plain)
    expected = left(again, plain)

    left(good, other)
    broken = replace(bad, reply=forgery.with_file(attempts.GOOD_FILE[:-4]))
    result = attempts.attempt(broken, other)
    assert result.code == "STR-300"
    assert sorted(name.split(".")[1] for name in result.left_behind) == ["blob", "json", "residual"]
    assert left(again, other) == expected


def test_an_entry_that_could_not_be_written_keeps_the_update_here(tmp_path: Path) -> None:
    """A full disk: the courier ends with a code, and nothing has left."""

    class FullDisk(Disk):
        """Takes the task's line and no other."""

        left = 4

        def write(self, descriptor: int, data: bytes) -> int:
            """Until it is full."""
            self.left -= 1
            if self.left < 3:
                raise OSError(28, "no space left")
            return super().write(descriptor, data)

    wires: list[Wire] = []

    class Kept(Wire):
        """A wire that is still known after the failure."""

        def confirm(self, run_id: int, message_id: str) -> None:
            """The task was taken; what follows is the reply."""
            wires.append(self)
            super().confirm(run_id, message_id)

    ledger = Ledger(tmp_path / "ledger.jsonl", disk=FullDisk())
    with pytest.raises(attempts.StillroomError) as caught:
        attempts.attempt(HONEST, tmp_path, ledger=ledger, kind_of_wire=Kept)
    assert caught.value.code == "STR-503"
    assert not wires[0].pushed
    assert not wires[0].objects
