"""The logs that courier and runner leave in their own folders: bounded, and read without either.

They say the same as standard error, which a container's or a unit's own log has. A line can hold a
path in a traceback: they stay in the hospital.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COURIER_LOG, RUNNER_LOG = "courier.log", "runner.log"
"""In ``courier_state`` and in ``state``."""
LOOK_S = 0.5
SEVERITY = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line.

    Attributes:
        part: ``courier`` or ``runner``.
        fields: As they were written.
    """

    part: str
    fields: dict[str, Any]

    @property
    def time(self) -> str:
        """When, as text that sorts."""
        return str(self.fields.get("time", ""))

    @property
    def severity(self) -> int:
        """0 to 4; unknown levels are shown always."""
        return SEVERITY.get(str(self.fields.get("level", "")), 4)

    def text(self) -> str:
        """For people, in one line but for tracebacks."""
        hidden = {"time", "level", "logger", "event", "traceback"}
        more = " ".join(f"{k}={v}" for k, v in self.fields.items() if k not in hidden)
        level, event = self.fields.get("level", ""), self.fields.get("event", "")
        line = (
            f"{self.time[:19].replace('T', ' ')} {self.part:<8} {level:<8} {event} {more}".rstrip()
        )
        return line + (f"\n{self.fields['traceback']}" if "traceback" in self.fields else "")


def tail(files: Iterable[tuple[str, Path]], count: int, severity: int = 0) -> list[LogLine]:
    """The last ``count`` lines of all files together, oldest first; files that are absent have none.

    Args:
        files: Part and file.
        count: How many.
        severity: Only lines at least as grave.
    """
    found: list[LogLine] = []
    for part, path in files:
        last = deque[LogLine](maxlen=count)
        for older in (path.with_name(f"{path.name}.1"), path):
            last.extend(line for line in _lines(part, older) if line.severity >= severity)
        found += last
    return sorted(found, key=lambda line: line.time)[-count:] if count else []


def follow(
    files: Iterable[tuple[str, Path]],
    severity: int = 0,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[LogLine]:
    """Lines that are written from now on, as they come; never ends."""
    places = {path: (part, _size(path)) for part, path in files}
    while True:
        for path, (part, before) in list(places.items()):
            size = _size(path)
            # A new file may have taken the place of the full one.
            place = before if size >= before else 0
            if size > place:
                with path.open("rb") as stream:
                    stream.seek(place)
                    data = stream.read(size - place)
                whole = data[: data.rfind(b"\n") + 1]
                places[path] = (part, place + len(whole))
                for raw in whole.splitlines():
                    line = _parsed(part, raw)
                    if line is not None and line.severity >= severity:
                        yield line
        wait(LOOK_S)


def _lines(part: str, path: Path) -> Iterator[LogLine]:
    try:
        with path.open("rb") as stream:
            for raw in stream:
                line = _parsed(part, raw)
                if line is not None:
                    yield line
    except OSError:
        return


def _parsed(part: str, raw: bytes) -> LogLine | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return LogLine(part, value) if isinstance(value, dict) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
