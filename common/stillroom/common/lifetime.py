"""Stopping: on a signal, or when the process that started us is gone."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator


def follow(parent: int) -> None:
    """End this process (SIGTERM to itself) once ``parent`` is no longer its parent.

    A rehearsal that is killed with SIGKILL cannot stop its children; they notice by themselves,
    even when it died before they got here: that is why the caller names the process.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="follow-parent").start()


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda _signal, _frame: stop.set())
    return stop


def leave_within(stop: threading.Event, seconds: float) -> None:
    """End this process at the latest ``seconds`` after ``stop`` is set, whatever it is doing.

    For a process whose every durable step is one rename: it may be killed at any moment, so it
    need not finish a step of training or a scan of folders that takes longer than anybody waits.
    """

    def watch() -> None:
        stop.wait()
        time.sleep(seconds)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="leave").start()


def patience(waited_s: float, shortest_s: float) -> float:
    """How long to wait before the next look, in seconds, after ``waited_s`` without news.

    A fortieth of the wait so far, between ``shortest_s`` and 2 s: who has waited a minute for a
    training round loses little by waiting two seconds more, and every look costs the server a
    signature check and a query. Short waits keep their short pauses.
    """
    return max(shortest_s, min(2.0, waited_s / 40))


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block has ended, then deliver them.

    For the moments in which an interruption would lose track of something that was just made.
    Outside the main thread, where Python delivers no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda number, _frame: arrived.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
