"""The ledger: an entry is on the disk or was never acknowledged, and no line can be changed."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from fuzzing import FUZZ, JSONISH, like, verdict
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stillroom.client.ledger import Disk, Entry, Ledger, check, check_lines, read
from stillroom.client.ledger_cli import ledger as ledger_cli
from stillroom.common.errors import ResourceError, TrustError


def entry(number: int) -> Entry:
    return Entry(
        kind="sent", decision="allowed", stage="student", round=number, time=datetime.now(UTC)
    )


def filled(path: Path, count: int = 5) -> list[bytes]:
    path.unlink(missing_ok=True)
    with Ledger(path) as ledger:
        assert [ledger.append(entry(number)) for number in range(count)] == list(range(count))
    return path.read_bytes().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for every example of a law."""
    return tmp_path_factory.mktemp("ledger")


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Numbers and chain continue over a restart; the file is for its owner alone."""
    path = tmp_path / "state" / "ledger.jsonl"
    filled(path)
    with Ledger(path) as ledger:
        assert ledger.append(entry(9)) == 5
        assert ledger.head == check(path).head

    assert [line.round for line in read(path)] == [0, 1, 2, 3, 4, 9]
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_writer(tmp_path: Path) -> None:
    """A second courier is told so; it neither waits nor writes."""
    with Ledger(tmp_path / "l"), pytest.raises(ResourceError) as caught:
        Ledger(tmp_path / "l")
    assert caught.value.code == "STR-507"


@pytest.mark.parametrize("cut", [0, 1, 2, 60, 150, 200])
def test_a_torn_line_is_set_aside(folder: Path, cut: int) -> None:
    """Whatever part of the last line was written: it is kept in a file, and the rest holds."""
    path = folder / "torn" / "ledger.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = filled(path)
    whole = path.read_bytes()
    cut = 1 + cut % len(lines[-1])
    path.write_bytes(whole[:-cut])

    with Ledger(path) as ledger:
        torn = ledger.torn
        assert ledger.append(entry(7)) == 4
    if cut == len(lines[-1]) + 1:
        assert torn is None
    else:
        assert torn is not None
        assert torn.read_bytes() == lines[-1][: len(lines[-1]) + 1 - cut]
        torn.unlink()
    assert check(path).lines == 5


@pytest.mark.parametrize("at", [0, 1, 100, 480, 481, 900])
@pytest.mark.parametrize("flip", [1, 32, 128])
def test_a_changed_byte_is_found(folder: Path, at: int, flip: int) -> None:
    """No byte of a line that another follows can change; nothing is repaired or cut."""
    path = folder / "changed"
    lines = filled(path)
    data = bytearray(path.read_bytes())
    at %= len(data) - len(lines[-1]) - 1
    data[at] ^= flip
    path.write_bytes(data)

    for attempt in (lambda: check(path), lambda: Ledger(path)):
        with pytest.raises(TrustError) as caught:
            attempt()
        assert caught.value.code == "STR-220"
    assert path.read_bytes() == bytes(data)


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0].replace(b'"round":0', b'"round": 0'), *lines[1:]],
        lambda lines: [*lines, b"{}"],
        lambda lines: [*lines, b"\x00" * 40],
        lambda lines: [*lines, b"[" * 100_000],
        lambda lines: [*lines, b"1" * 3_000_000],
    ],
)
def test_removed_moved_and_added_lines_are_found(tmp_path: Path, edit: object) -> None:
    """A chain has one order and no gaps."""
    path = tmp_path / "l"
    path.write_bytes(b"\n".join(edit(filled(path))) + b"\n")  # type: ignore[operator]
    with pytest.raises(TrustError) as caught:
        check(path)
    assert caught.value.code == "STR-220"


class FailingDisk(Disk):
    """Stops at one call; what was not synced is on the disk, in part, or lost."""

    def __init__(self, path: Path, at: int, kept: float) -> None:
        self.path, self.left, self.kept = path, at, kept
        self.synced = path.stat().st_size if path.exists() else 0

    def write(self, descriptor: int, data: bytes) -> int:
        """Half of what is asked, or the failure."""
        self.step()
        return super().write(descriptor, data[: max(1, len(data) // 2)])

    def fsync(self, descriptor: int) -> None:
        """As asked, or the failure."""
        self.step()
        super().fsync(descriptor)
        self.synced = self.path.stat().st_size

    def step(self) -> None:
        """One call nearer to the failure."""
        self.left -= 1
        if self.left < 0:
            size = self.path.stat().st_size
            os.truncate(self.path, self.synced + round((size - self.synced) * self.kept))
            raise OSError(5, "the disk failed")


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0], ids=["lost", "half", "kept"])
@pytest.mark.parametrize("at", range(24))
def test_no_acknowledged_entry_is_lost(tmp_path: Path, at: int, kept: float) -> None:
    """Whenever the disk fails: what was acknowledged is there after a restart, in order."""
    path = tmp_path / "l"
    path.touch()
    acknowledged = []
    with contextlib.suppress(ResourceError):
        ledger = Ledger(path, disk=FailingDisk(path, at, kept))
        for number in range(3):
            acknowledged.append((ledger.append(entry(number)), number))

    with Ledger(path) as again:
        found = [(line.sequence, line.round) for line in read(path)]
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 1
        assert again.append(entry(5)) == len(found)
    assert check(path).torn == b""


def test_after_a_failure_nothing_more_is_written(tmp_path: Path) -> None:
    """What the disk holds is known again only after it was read."""
    ledger = Ledger(tmp_path / "l", disk=FailingDisk(tmp_path / "l", 2, 1.0))
    for _ in range(2):
        with pytest.raises(ResourceError) as caught:
            ledger.append(entry(1))
        assert caught.value.code == "STR-503"


def written(count: int) -> bytes:
    """A ledger's bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        filled(Path(scratch) / "l", count)
        return (Path(scratch) / "l").read_bytes()


WHOLE = written(4)
LINES = WHOLE.splitlines(keepends=True)


@FUZZ
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | like(LINES[0]))
def test_ledgers_of_any_bytes(data: bytes) -> None:
    """A file of any bytes holds, is torn, or is damaged; nothing else happens."""
    state = verdict(lambda: check_lines(BytesIO(data)))
    if state is not None:
        # One line may say anything that a line can say: no later one speaks for it.
        assert state.lines == data.count(b"\n") <= 1
        assert data[state.size :] == state.torn


@FUZZ
@given(keep=st.integers(0, len(WHOLE)), rest=st.binary(max_size=40))
def test_ledgers_cut_anywhere(keep: int, rest: bytes) -> None:
    """Whatever a crash left of the end: whole lines hold, and the rest is known to be torn."""
    left = WHOLE[:keep] + rest.replace(b"\n", b"\0")
    state = check_lines(BytesIO(left))
    assert state.lines == WHOLE[:keep].count(b"\n")
    assert WHOLE[: state.size] + state.torn == left


@FUZZ
@given(
    at=st.integers(0, len(WHOLE) - len(LINES[-1]) - 1),
    put=st.binary(min_size=1, max_size=3) | JSONISH.map(lambda value: json.dumps(value).encode()),
    over=st.integers(0, 200),
)
def test_ledgers_changed_anywhere(at: int, put: bytes, over: int) -> None:
    """No byte of a line that another follows can be changed, removed or put in between."""
    data = WHOLE[:at] + put + WHOLE[at + over :]
    state = verdict(lambda: check_lines(BytesIO(data)))
    if state is not None and data != WHOLE:
        # Cut off within these lines, the rest of a chain is a chain: what the page warns of.
        assert WHOLE.startswith(data[: state.size])
        assert b"\n" not in state.torn


def test_the_command(tmp_path: Path) -> None:
    """``show`` filters; ``verify`` prints the head, and says 3 for a damaged file."""
    path = tmp_path / "ledger.jsonl"
    filled(path)
    run = CliRunner().invoke(ledger_cli, ["show", "--file", str(path), "--json"])
    assert [json.loads(line)["round"] for line in run.output.splitlines()] == [0, 1, 2, 3, 4]
    run = CliRunner().invoke(ledger_cli, ["show", "--file", str(path), "--decision", "refused"])
    assert run.exit_code == 0
    run = CliRunner().invoke(ledger_cli, ["verify", "--file", str(path)])
    assert check(path).head in run.output

    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":3'))
    command = "from stillroom.client.cli import main; main()"
    process = subprocess.run(
        [sys.executable, "-P", "-c", command, "ledger", "verify", "--file", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 3
    assert "STR-220" in process.stderr
    assert "line 4" in process.stderr.lower()
