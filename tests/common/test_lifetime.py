"""Waiting, and not being interrupted at the wrong moment."""

import signal
import subprocess
import sys

import pytest

from stillroom.common.lifetime import patience, signals_deferred


@pytest.mark.parametrize(
    ("waited_s", "pause_s"), [(0, 0.25), (8, 0.25), (20, 0.5), (80, 2.0), (4000, 2.0)]
)
def test_patience_grows_with_the_wait_and_is_bounded(waited_s: float, pause_s: float) -> None:
    """Short waits keep short pauses; long ones cost the server little."""
    assert patience(waited_s, 0.25) == pytest.approx(pause_s)


def test_a_signal_is_held_back_until_the_block_has_ended() -> None:
    """What the block made is known before the interruption arrives."""
    made: list[str] = []

    def make() -> None:
        with signals_deferred():
            signal.raise_signal(signal.SIGINT)
            made.append("process")

    # A shell that starts this in its background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            make()
    finally:
        signal.signal(signal.SIGINT, before)
    assert made == ["process"]


def test_handlers_are_as_they_were_before() -> None:
    """Deferring changes nothing for later."""
    before = signal.getsignal(signal.SIGTERM)
    with signals_deferred():
        pass

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_is_busy_leaves_all_the_same() -> None:
    """Told to stop in the middle of something that does not look up, it is gone in time."""
    code = (
        "import threading, time\n"
        "from stillroom.common.lifetime import leave_within, stop_on_signals\n"
        "leave_within(stop_on_signals(), 0.2)\n"
        "print('busy', flush=True)\n"
        "end = time.monotonic() + 60\n"
        "while time.monotonic() < end: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()

        assert process.wait(timeout=10) == 0
