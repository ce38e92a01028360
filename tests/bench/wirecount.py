"""Bytes through a TCP port, as the kernel counts them: the same for us and for every peer."""

import re
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Callable

_SENT, _RECEIVED = re.compile(r"bytes_sent:(\d+)"), re.compile(r"bytes_received:(\d+)")


class WireCount:
    """Sums over the server's connections on one port; payload of TCP, so TLS frames count.

    A connection that opens and closes between two looks is missed: looks are short and the
    transfers of a model last longer. ``None`` when ``ss`` is not installed.

    Args:
        port: Asked anew each time: it may be known only later.
        every_s: Between two looks.
    """

    def __init__(self, port: Callable[[], int | None], every_s: float = 0.3) -> None:
        self.port, self.every_s = port, every_s
        self.series: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        self._most: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "WireCount":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, start: float, end: float) -> tuple[int, int]:
        """Bytes (to the sites, from the sites) between two times."""
        times = [row[0] for row in self.series]
        first, last = (self.series[bisect_right(times, t) - 1] for t in (start, end))
        return last[1] - first[1], last[2] - first[2]

    def _watch(self) -> None:
        while not self._stop.wait(self.every_s):
            port = self.port()
            if port is not None:
                self._look(port)

    def _look(self, port: int) -> None:
        try:
            done = subprocess.run(
                ["ss", "-tinHO", "sport", "=", f":{port}"],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            return
        for line in done.stdout.splitlines():
            words = line.split()
            sent, received = _SENT.search(line), _RECEIVED.search(line)
            if len(words) > 4:
                now = int(sent[1]) if sent else 0, int(received[1]) if received else 0
                before = self._most.get(words[4], (0, 0))
                self._most[words[4]] = max(before[0], now[0]), max(before[1], now[1])
        sums = [sum(pair[side] for pair in self._most.values()) for side in (0, 1)]
        self.series.append((time.time(), sums[0], sums[1]))
