"""CPU seconds, memory and descriptors of processes, read from /proc while they run."""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class Look(NamedTuple):
    """One look at one process.

    Attributes:
        t: Seconds since the epoch.
        cpu_s: User and system seconds so far.
        rss: Resident bytes now.
        peak: The most there ever were (VmHWM).
        files: Open descriptors.
    """

    t: float
    cpu_s: float
    rss: int
    peak: int
    files: int


@dataclass
class Track:
    """All looks at one process."""

    pid: int
    looks: list[Look] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Most resident bytes."""
        return max((look.peak for look in self.looks), default=0)

    def cpu_at(self, t: float) -> float:
        """CPU seconds used by the time ``t``, between two looks by proportion."""
        times = [look.t for look in self.looks]
        at = bisect_left(times, t)
        if at == 0:
            return 0.0 if not self.looks or t < self.looks[0].t - 1 else self.looks[0].cpu_s
        if at == len(times):
            return self.looks[-1].cpu_s
        a, b = self.looks[at - 1], self.looks[at]
        return a.cpu_s + (b.cpu_s - a.cpu_s) * (t - a.t) / (b.t - a.t)


class Sampler:
    """Looks at named processes and, under names of their own, at their children.

    Args:
        processes: Name -> pid, asked before every look: processes come and go.
        child: Names a child from (its parent's name, its command line); None leaves it out.
        every_s: Between two looks.
    """

    def __init__(
        self,
        processes: Callable[[], Mapping[str, int]],
        *,
        child: Callable[[str, str], str | None] = lambda _parent, _line: None,
        every_s: float = 0.2,
    ) -> None:
        self.processes, self.child, self.every_s = processes, child, every_s
        self.tracks: dict[str, list[Track]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu(self, name: str, start: float, end: float) -> float:
        """CPU seconds of all lives of ``name`` between two times."""
        return sum(t.cpu_at(end) - t.cpu_at(start) for t in self.tracks.get(name, ()))

    def peak(self, name: str) -> int:
        """Most resident bytes of any life of ``name``."""
        return max((track.peak for track in self.tracks.get(name, ())), default=0)

    def peaks(self) -> dict[str, int]:
        """By name."""
        return {name: self.peak(name) for name in sorted(self.tracks)}

    def _watch(self) -> None:
        while True:
            named = dict(self.processes())
            for parent, pid in list(named.items()):
                for child, line in _children(pid):
                    name = self.child(parent, line)
                    if name is not None:
                        named[name] = child
            for name, pid in named.items():
                look = _look(pid)
                if look is not None:
                    self._track(name, pid).looks.append(look)
            if self._stop.wait(self.every_s):
                return

    def _track(self, name: str, pid: int) -> Track:
        lives = self.tracks.setdefault(name, [])
        if not lives or lives[-1].pid != pid:
            lives.append(Track(pid))
        return lives[-1]


def _children(pid: int) -> list[tuple[int, str]]:
    """Pid and command line of every descendant."""
    found: list[tuple[int, str]] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text("ascii").split():
                line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
                found.append((int(child), line.decode("utf-8", "replace")))
                found += _children(int(child))
    except OSError:
        pass
    return found


def _look(pid: int) -> Look | None:
    """None when the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # iterdir stats every one
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
    if "VmRSS" not in sizes:
        return None  # a zombie
    rss, peak = (int(sizes[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return Look(time.time(), (int(stat[11]) + int(stat[12])) / TICK, rss, peak, files)
