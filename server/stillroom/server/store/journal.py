"""What a run did, as it happens: one JSON object a line, and the record of every round.

Operators watch it (``stillroom-server status``), the rehearsal draws its progress from it, and
the report is made of it. It holds no patient-derived value: only what messages may carry.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillroom.common.tensorfile import write_durably


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
        with self._events.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

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
    if name == "study.waiting" and event["missing"]:
        return f"waiting for {', '.join(event['missing'])}"
    if name == "site.inventory":
        cases = event["counts"].get("inventory.cases", 0)
        return f"{event['site']}: " + (event["reason"] or f"{cases:g} usable cases")
    if name == "site.answered" and event["status"] != "admitted":
        return f"{where}: {event['site']} {event['status']}, {event['reason']}"
    if name == "round.closed":
        tail = "" if loss is None else f", loss {loss:.3f}"
        return f"{where} of {event['of']}: {', '.join(event['admitted'])}{tail}"
    if name == "stage.scored":
        return f"{where}: scored by {', '.join(event['sites']) or 'nobody'}"
    if name == "study.finished":
        return f"study {event['status']}"
    return None
