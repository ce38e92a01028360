"""kill -9 at every step of the gate's sequence, with the disk keeping or losing what was not synced.

Two laws: whatever reached the wire is in the ledger, and no acknowledged entry is ever lost.
"""

import json
import os
import signal
from pathlib import Path

import attempts
import pytest
from attempts import Case, Wire

from stillroom.client.ledger import Disk, Entry, Ledger, check, read
from stillroom.common.tensorfile import weights_digest

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


def die(case: Case, folder: Path, at: int) -> bool:
    """Run ``case`` in a process that is killed at step ``at``; False when it got through."""
    child = os.fork()
    if child == 0:
        try:
            Death.left, DyingWire.folder = at, folder
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
            assert found[-1].content == (weights_digest(attempts.GOOD) if case is HONEST else "")
        assert check(path).torn == b""
        at += 1
    assert at > (25 if case is HONEST else 15)


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
