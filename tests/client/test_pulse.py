"""The courier's pulse: what it says, how often it is written, and that reading never fails."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stillroom.client.ledger import Entry
from stillroom.client.pulse import NAME, PulseKeeper, read_pulse

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A time that is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """What it shows."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At noon."""
    return Clock()


def test_what_happens_is_there_at_once(tmp_path: Path, clock: Clock) -> None:
    """A connection, a task, its end."""
    keeper = PulseKeeper(tmp_path, clock)
    clock.now += timedelta(seconds=5)
    keeper.connected()
    keeper.entered(
        Entry(kind="task", message="round", stage="student", round=3, decision="allowed")
    )
    pulse = read_pulse(tmp_path)
    assert pulse is not None
    assert pulse.started_at == START
    assert pulse.connected_at == pulse.last_contact_at == clock.now
    assert pulse.task is not None
    assert (pulse.task.message, pulse.task.stage, pulse.task.round) == ("round", "student", 3)
    keeper.entered(Entry(kind="sent", content="a" * 64, decision="allowed", time=clock.now))
    keeper.idles()
    keeper.speaks("9.9.9")
    pulse = read_pulse(tmp_path)
    assert pulse is not None
    assert pulse.task is None
    assert pulse.last_round_at == clock.now
    assert pulse.server_version == "9.9.9"


def test_beats_are_written_once_a_second(tmp_path: Path, clock: Clock) -> None:
    """However often the courier looks."""
    keeper, path = PulseKeeper(tmp_path, clock), tmp_path / NAME
    path.unlink()
    for _ in range(4):
        clock.now += timedelta(seconds=0.2)
        keeper.contact()
        keeper.beat(runner=True)
    assert not path.exists()
    clock.now += timedelta(seconds=0.2)
    keeper.beat(runner=False)
    pulse = read_pulse(tmp_path)
    assert pulse is not None
    assert pulse.runner_seen_at == START + timedelta(seconds=0.8)
    assert pulse.written_at == clock.now


def test_a_clock_that_jumps_back_stops_no_pulse(tmp_path: Path, clock: Clock) -> None:
    """It is written with the time that the clock shows now."""
    keeper = PulseKeeper(tmp_path, clock)
    clock.now -= timedelta(hours=1)
    keeper.contact()
    pulse = read_pulse(tmp_path)
    assert pulse is not None
    assert pulse.written_at == clock.now


def test_the_next_courier_remembers_the_last_round(tmp_path: Path, clock: Clock) -> None:
    """All else is its own."""
    keeper = PulseKeeper(tmp_path, clock)
    keeper.connected()
    keeper.entered(Entry(kind="sent", content="a" * 64, decision="allowed", time=START))
    clock.now += timedelta(days=1)
    pulse = PulseKeeper(tmp_path, clock).pulse
    assert pulse.last_round_at == START
    assert pulse.connected_at is None


def test_a_still_pulse_is_nobodys(tmp_path: Path, clock: Clock) -> None:
    """After a minute."""
    pulse = PulseKeeper(tmp_path, clock).pulse
    assert pulse.beats(START + timedelta(seconds=30))
    assert not pulse.beats(START + timedelta(seconds=90))


@pytest.mark.parametrize("data", [None, b"", b"{}", b"[1]", b"\xff\xfe"])
def test_what_is_no_pulse_is_none(tmp_path: Path, data: bytes | None) -> None:
    """Nobody who asks gets an exception."""
    if data is not None:
        (tmp_path / NAME).write_bytes(data)
    assert read_pulse(tmp_path) is None


def test_a_disk_that_fails_is_no_reason_to_stop(tmp_path: Path, clock: Clock) -> None:
    """Carrying goes on; the ledger says when its own disk fails."""
    (tmp_path / "file").write_bytes(b"")
    PulseKeeper(tmp_path / "file", clock).connected()
