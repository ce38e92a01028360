"""A sampling profiler for one process: which lines its threads are at, leaving out those that wait."""

import atexit
import sys
import threading
import time
from collections import Counter
from pathlib import Path

EVERY_S = 0.005
WAITING = {
    "wait",
    "watch",
    "select",
    "poll",
    "_worker",
    "accept",
    "get",
    "sleep",
    "_wait",
    "read",
    "acquire",
}
DEEP = 25


class Profiler:
    """Counts stacks until the process ends, then writes them to a file.

    Args:
        into: The file; the busiest functions first, by own time and by time with callees.
    """

    def __init__(self, into: Path) -> None:
        self.into = into
        self.own: Counter[str] = Counter()
        self.below: Counter[str] = Counter()
        self.looks = 0
        self.started = time.process_time()
        threading.Thread(target=self._watch, daemon=True).start()
        atexit.register(self.write)

    def write(self) -> None:
        """What was seen so far."""
        lines = [f"{self.looks} looks, {time.process_time() - self.started:.1f} CPU s", "own:"]
        lines += [f"{count:6d} {name}" for name, count in self.own.most_common(60)]
        lines += ["with callees:", *(f"{n:6d} {name}" for name, n in self.below.most_common(90))]
        self.into.write_text("\n".join(lines) + "\n", "utf-8")

    def _watch(self) -> None:
        me = threading.get_ident()
        while True:
            time.sleep(EVERY_S)
            self.looks += 1
            for thread, frame in sys._current_frames().items():
                code = frame.f_code
                if thread != me and code.co_name not in WAITING:
                    self._note(frame)

    def _note(self, frame: object) -> None:
        seen, at = set(), frame
        for depth in range(DEEP):
            code = at.f_code  # type: ignore[attr-defined]
            name = f"{code.co_filename.rpartition('site-packages/')[2][-60:]}:{code.co_name}"
            if not depth:
                self.own[name] += 1
            if name not in seen:
                self.below[name] += 1
            seen.add(name)
            at = at.f_back  # type: ignore[attr-defined]
            if at is None:
                return
