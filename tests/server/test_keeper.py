"""A wanted run is never without a process for long, and never started without end."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import stillroom.server.store.runs
from stillroom.common.errors import ConfigError, ResourceError
from stillroom.server.keeper import PAUSES_S, SHORT_S, START_S, Keeper
from stillroom.server.store.folder import claimed
from stillroom.server.store.journal import Journal, read_events
from stillroom.server.store.runs import ENDED, RUNNING, STOPPED, Runs


@dataclass
class FakeFlower:
    """Starts nothing; says what it is told to."""

    started: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    word: str = "pending"
    down: bool = False

    def start(self, study: Path, run: Path, name: str = "") -> int:
        """A number of 64 bits, as Flower's are."""
        if self.down:
            raise ResourceError("x", fix="y", code="STR-504")
        self.started.append(2**64 - 1 - len(self.started))
        return self.started[-1]

    def stop(self, run_id: int) -> None:
        """Flower refuses to stop what has ended."""
        self.stopped.append(run_id)
        raise ConfigError("x", fix="y")

    def status(self, run_id: int) -> str:
        """Of the newest one."""
        assert run_id == self.started[-1]
        return self.word


@dataclass
class Bench:
    """One run, its keeper, and a clock."""

    folder: Path
    now: float = 0.0

    def __post_init__(self) -> None:
        self.flower = FakeFlower()
        self.run = self.folder / "run"
        self.run.mkdir()
        with self.runs() as runs:
            runs.add("first", self.folder / "study", self.run, 1.0)
        self.keeper = Keeper(self.folder / "runs.db", self.flower, lambda: self.now)

    def runs(self) -> Runs:
        """The table."""
        return Runs(self.folder / "runs.db")

    def look(self, after: float = 1.0) -> int:
        """Starts so far, after another look."""
        self.now += after
        self.keeper.look()
        return len(self.flower.started)

    @contextlib.contextmanager
    def process(self, steps: int | None) -> Iterator[None]:
        """A process that has the lock, and makes steps."""
        with claimed(self.run):
            yield
            if steps is not None:
                Journal(self.run).write("state.json", {"step": steps})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_wanted_run_is_started_once(bench: Bench) -> None:
    """However long no SuperExec takes it."""
    assert bench.look() == 1
    for _ in range(5):
        assert bench.look(100) == 1
    bench.flower.word = "running"
    assert bench.look() == 1
    with bench.process(None):
        assert bench.look() == 1


def test_a_killed_process_is_replaced_at_once(bench: Bench) -> None:
    """The lock is free: Flower is told to forget the old one, and asked for another."""
    bench.look()
    with bench.process(steps=3):
        bench.look(SHORT_S)
    assert bench.look() == 2
    assert bench.flower.stopped == bench.flower.started[:1]


def test_a_process_that_never_comes(bench: Bench) -> None:
    """Flower says that it has ended; or that it runs, for longer than any start takes."""
    bench.look()
    bench.flower.word = "finished:failed"
    assert bench.look(2) == 1
    assert bench.look(PAUSES_S[1]) == 2
    bench.flower.word = "running"
    assert bench.look(START_S - 1) == 2
    bench.look(2)
    assert bench.look(PAUSES_S[2]) == 3


def test_three_failures_in_a_row(bench: Bench) -> None:
    """Nobody tries again, the reason can be read, and an operator can make it go on."""
    for _ in range(20):
        bench.look(5)
        with bench.process(steps=None):
            bench.look()
    assert len(bench.flower.started) == len(PAUSES_S)
    with bench.runs() as runs:
        run = runs.get("first")
        assert (run.wanted, run.reason[:7]) == (STOPPED, "STR-502")
        runs.want("first", RUNNING, 5.0)
    assert [e["event"] for _, e in read_events(bench.run)] == ["study.paused"]
    assert bench.look() == len(PAUSES_S) + 1


def test_progress_is_no_failure(bench: Bench) -> None:
    """A process that gets a round done before it dies may die as often as it likes."""
    for number in range(20):
        bench.look(5)
        with bench.process(steps=number):
            bench.look()
    assert len(bench.flower.started) == 20


@pytest.mark.parametrize("wanted", [STOPPED, ENDED])
def test_what_is_not_wanted_is_left(bench: Bench, wanted: str) -> None:
    """Stopped or ended by its operator; or it has a result."""
    with bench.runs() as runs:
        runs.want("first", wanted, 2.0)
    assert bench.look() == 0
    with bench.runs() as runs:
        runs.want("first", RUNNING, 2.0)
    Journal(bench.run).write("result.json", {"status": "completed"})
    assert bench.look() == 0


def test_a_superlink_that_is_not_up_yet(bench: Bench) -> None:
    """Later is soon enough; it is no failure of the run."""
    bench.flower.down = True
    for _ in range(10):
        bench.look()
    bench.flower.down = False
    assert bench.look() == 1


def test_a_keeper_that_was_restarted(bench: Bench) -> None:
    """It leaves a living process alone, and replaces a dead one."""
    bench.look()
    again = Keeper(bench.folder / "runs.db", bench.flower, lambda: bench.now)
    with bench.process(steps=1):
        again.look()
        assert len(bench.flower.started) == 1
    again.look()
    assert len(bench.flower.started) == 2


def test_a_full_disk_ends_no_keeper(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table that cannot be written or opened for a while is looked at again, and again."""
    monkeypatch.setattr(stillroom.server.store.runs, "BUSY_S", 0.05)
    with contextlib.closing(sqlite3.connect(bench.folder / "runs.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # what is refused then is refused on a full disk, too
        bench.look()
        with bench.runs() as runs, pytest.raises(ResourceError) as caught:
            runs.give_up("first", 2.0, "x")
        assert caught.value.code == "STR-503"
    bench.folder.joinpath("runs.db").rename(bench.folder / "away")
    bench.folder.joinpath("runs.db").mkdir()
    bench.look()
    bench.folder.joinpath("runs.db").rmdir()
    bench.folder.joinpath("away").rename(bench.folder / "runs.db")

    bench.look(after=START_S + 1)
    assert len(bench.flower.started) >= 2
    with bench.runs() as runs:
        assert runs.get("first").flower_run == bench.flower.started[-1]


def test_the_table(tmp_path: Path) -> None:
    """By name or number; a name and a folder are used once; giving up never undoes a wish."""
    with Runs(tmp_path / "runs.db") as runs:
        first = runs.add("first", tmp_path / "study", tmp_path / "a", 1.0)
        runs.started("first", 2**64 - 5)
        assert runs.get("1").name == "first"
        assert runs.get("first").flower_run == 2**64 - 5
        for name, folder in (("first", "b"), ("second", "a")):
            with pytest.raises(ConfigError) as caught:
                runs.add(name, tmp_path / "study", tmp_path / folder, 1.0)
            assert caught.value.code == "STR-108"
        with pytest.raises(ConfigError):
            runs.get("2")
        runs.want("first", ENDED, 2.0)
        runs.give_up("first", 3.0, "x")
        assert runs.get("first").wanted == ENDED
        assert [run.number for run in runs.all()] == [first.number]
