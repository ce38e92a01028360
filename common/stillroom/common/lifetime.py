"""Stopping: on a signal, or when the process that started us is gone."""

import os
import signal
import threading
import time


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
