"""What has left, and what was stopped, counted from the ledger while its chain is checked.

The ledger only grows: what was checked is not read again, unless another file has taken its place.
"""

import os
import threading
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from stillroom.client.ledger import FIRST, Checked, Line, read_on
from stillroom.common.errors import StillroomError, TrustError

NEWEST = 200
"""Lines that are kept to be shown; ``stillroom-client ledger show`` has them all."""
SHOWN = frozenset({"sent", "refused", "withheld"})
NOTHING = Checked(0, FIRST, 0, b"")


@dataclass(frozen=True, slots=True)
class Total:
    """Of one stage.

    Attributes:
        files: Files of weights that left.
        bytes: Of these files.
        last_round: Of the newest of them.
    """

    files: int = 0
    bytes: int = 0
    last_round: int = 0


@dataclass(frozen=True, slots=True)
class Departures:
    """All of it.

    Attributes:
        checked: How far the chain holds.
        newest: Latest lines about something that left or was stopped, newest first.
        stages: Study and stage -> what left for it.
        refused: Code -> how often.
        messages: Answers that left, with a file or with numbers alone.
        last_sent: The newest line about a file that left.
        counts: What this site has last said about how many scans it has; None before.
        damage: Why the chain does not hold; None where it does.
    """

    checked: Checked = NOTHING
    newest: tuple[Line, ...] = ()
    stages: dict[tuple[str, str], Total] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    last_sent: Line | None = None
    counts: dict[str, float] | None = None
    damage: StillroomError | None = None

    @property
    def files(self) -> int:
        """Files that left, of all stages."""
        return sum(total.files for total in self.stages.values())

    @property
    def bytes(self) -> int:
        """Of these files."""
        return sum(total.bytes for total in self.stages.values())


class Departing:
    """Follows one ledger; for any thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._inode = 0
        self._begin()

    def _begin(self) -> None:
        self._kept: deque[Line] = deque(maxlen=NEWEST)
        self._refused: Counter[str] = Counter()
        self._known: set[str] = set()
        self._so_far = Departures()

    def look(self) -> Departures:
        """What the ledger says now."""
        with self._lock:
            try:
                self._follow()
            except FileNotFoundError:
                self._begin()
            except (StillroomError, OSError) as error:
                found = error if isinstance(error, StillroomError) else _unreadable()
                self._so_far = replace(self._so_far, damage=found)
            return self._so_far

    def _follow(self) -> None:
        with self._path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            is_other = found.st_ino != self._inode or found.st_size < self._so_far.checked.size
            if is_other or self._so_far.damage is not None:
                self._begin()
            self._inode = found.st_ino
            for line, checked in read_on(stream, self._so_far.checked):
                self._so_far = replace(self._add(line), checked=checked)
        self._so_far = replace(
            self._so_far, newest=tuple(reversed(self._kept)), refused=dict(self._refused)
        )

    def _add(self, line: Line) -> Departures:
        before = self._so_far
        if line.kind in SHOWN:
            self._kept.append(line)
        if line.decision == "refused":
            self._refused[line.code] += 1
        if line.kind != "sent":
            return before
        counts = before.counts
        if line.message == "inventory" and line.metrics:
            counts = dict(line.metrics)
        changed = replace(before, messages=before.messages + 1, counts=counts)
        if not line.content:
            return changed
        if line.content in self._known:
            # An answer that was asked for again: the file is there already and is not sent twice.
            return replace(changed, last_sent=line)
        self._known.add(line.content)
        key = (line.study, line.stage)
        total = before.stages.get(key, Total())
        more = Total(total.files + 1, total.bytes + line.bytes, line.round)
        return replace(changed, stages={**before.stages, key: more}, last_sent=line)


def _unreadable() -> TrustError:
    return TrustError(
        "The ledger cannot be read.",
        fix="Let this page's account read courier_state.",
        code="STR-220",
    )
