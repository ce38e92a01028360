"""What a run did, as it happens: one JSON object a line, and the record of every round.

Operators watch it (``stillroom-server status``), the rehearsal draws its progress from it, and
the report is made of it. It holds no patient-derived value: only what messages may carry.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillroom.common.tensorfile import write_durably

LONGEST_LINE = 1 << 20
"""Bytes of the longest event; a line of 200 sites has about 20 KiB."""


class Journal:
    """Append-only events and replaceable documents of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._events = folder / "events.jsonl"

    def event(self, name: str, **fields: Any) -> None:
        """Append one event with the time in seconds since the epoch.

        Events are for watching and are not fsynced; what must survive is a document.
        """
        line = json.dumps({"t": round(time.time(), 3), "event": name, **fields})
        # One write: a reader never sees the end of a line without its beginning.
        with self._events.open("ab", buffering=0) as stream:
            stream.write(line.encode("ascii") + b"\n")

    def mend(self) -> None:
        """Cut off a line that a killed process left unfinished; the next one would run into it.

        For the one process that writes here. Readers have never been given that line.
        """
        if not self._events.exists():
            return
        with self._events.open("r+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LONGEST_LINE))
            tail = stream.read()
            if tail and not tail.endswith(b"\n"):
                stream.truncate(size - len(tail) + tail.rfind(b"\n") + 1)

    def read(self, name: str) -> Any:
        """Document ``name``; None when there is none.

        Raises:
            ValueError: It is no JSON.
        """
        try:
            return json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, name: str, value: Any) -> None:
        """Replace document ``name`` durably."""
        write_durably(self.folder / name, json.dumps(value, indent=1).encode("utf-8"))


def read_events(folder: Path, *, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Complete events after byte ``offset``, each with the offset behind it.

    A line that is still being written is left for the next call.
    """
    path = folder / "events.jsonl"
    if not path.exists():
        return
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, json.loads(line)


def describe(event: dict[str, Any]) -> str | None:
    """One event in words for a terminal; None for those that only machines need."""
    name = event["event"]
    where = f"{event.get('stage')}, round {event.get('round')}"
    loss = event.get("loss")
    if name == "study.started":
        return f"study {event['study'][:16]} started"
    if name == "study.resumed":
        return f"study {event['study'][:16]} goes on"
    if name == "study.paused":
        return f"study paused: {event['reason']}"
    if name == "study.waiting" and event["missing"]:
        return f"waiting for {', '.join(event['missing'])}"
    if name == "site.inventory":
        cases = event["counts"].get("inventory.cases", 0)
        return f"{event['site']}: " + (event["reason"] or f"{cases:g} usable cases")
    if name == "site.answered" and event["status"] != "admitted":
        return f"{where}: {event['site']} {event['status']}, {event['reason']}"
    if name == "site.late":
        return f"{where}: {event['site']} answered after the round had closed"
    if name == "site.asked_again":
        return f"{where}: {event['site']} asked again, {event['reason']}"
    if name == "round.closed":
        tail = "" if loss is None else f", loss {loss:.3f}"
        return f"{where} of {event['of']}: {', '.join(event['admitted'])}{tail}"
    if name == "stage.scored":
        return f"{where}: scored by {', '.join(event['sites']) or 'nobody'}"
    if name == "study.finished":
        return f"study {event['status']}"
    return None
