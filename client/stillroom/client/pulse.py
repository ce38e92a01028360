"""How the courier is: ``pulse.json`` in ``courier_state``, for whoever asks without disturbing it.

Written at most about once a second and on changes; read by ``status``, ``doctor``, the site's page
and its metrics. It says when things happened, what is being worked on and which versions talk to
each other: nothing that comes from a patient. A pulse that stands still says that nobody is there.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stillroom.client.ledger import Entry
from stillroom.common.versions import own_version

NAME = "pulse.json"
EVERY_S = 1.0
"""Between two writings that tell of nothing but that it still beats."""
STILL_S = 60.0
"""A pulse older than this is nobody's."""
MOST_BYTES = 1 << 14


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    """A page may be older than the courier."""


class PulseTask(_Section):
    """What this site is working on."""

    message: str
    """Kind of work: ``inventory``, ``round``, ``label``, ``stage``."""
    stage: str
    """Empty for an inventory."""
    round: int
    """From 1; 0 for an inventory."""
    since: AwareDatetime


class Pulse(_Section):
    """What is known of a courier. Times are aware, UTC, by this machine's clock."""

    started_at: AwareDatetime
    """The courier did."""
    written_at: AwareDatetime
    """This file was; a second ago or so while the courier lives."""
    connected_at: AwareDatetime | None = None
    """The server admitted this site, last; None before the first time."""
    last_contact_at: AwareDatetime | None = None
    """The server answered anything at all, last."""
    server_version: str | None = None
    """None where the server does not tell."""
    task: PulseTask | None = None
    """None between tasks."""
    last_round_at: AwareDatetime | None = None
    """An update of this site was let out, last; by an earlier courier too."""
    runner_seen_at: AwareDatetime | None = None
    """The runner lived, last."""
    version: str = Field(default_factory=lambda: str(own_version()))
    """The courier's own."""

    def beats(self, now: datetime) -> bool:
        """Whether a courier wrote this a moment ago."""
        return abs((now - self.written_at).total_seconds()) < STILL_S


def read_pulse(state: Path) -> Pulse | None:
    """The last pulse in ``courier_state``; None where there is none that can be understood."""
    try:
        with (state / NAME).open("rb") as stream:
            return Pulse.model_validate_json(stream.read(MOST_BYTES))
    except (OSError, ValidationError, ValueError):
        return None


class PulseKeeper:
    """Keeps the file; from any thread. A disk that fails is the ledger's business, not this one's."""

    def __init__(
        self, state: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """A courier has just started; what the one before it finished last is remembered.

        Args:
            state: ``courier_state``.
            clock: Aware, UTC.
        """
        self._state, self._clock, self._lock = state, clock, threading.Lock()
        earlier = read_pulse(state)
        self._pulse = Pulse(
            started_at=clock(),
            written_at=clock(),
            last_round_at=None if earlier is None else earlier.last_round_at,
        )
        self._put()

    @property
    def pulse(self) -> Pulse:
        """As it would be written now."""
        return self._pulse

    def connected(self) -> None:
        """The server has admitted this site."""
        now = self._clock()
        self._change(connected_at=now, last_contact_at=now)

    def contact(self) -> None:
        """The server has answered."""
        self._beat(last_contact_at=self._clock())

    def speaks(self, version: str | None) -> None:
        """The server has told its version, or does not."""
        if version != self._pulse.server_version:
            self._change(server_version=version and version[:40])

    def entered(self, entry: Entry) -> None:
        """The ledger has a new line."""
        if entry.kind == "task":
            task = PulseTask(
                message=entry.message, stage=entry.stage, round=entry.round, since=entry.time
            )
            self._change(task=task)
        elif entry.kind == "sent" and entry.content:
            self._change(last_round_at=entry.time)

    def idles(self) -> None:
        """There is no task any more."""
        if self._pulse.task is not None:
            self._change(task=None)

    def beat(self, *, runner: bool) -> None:
        """The courier lives, and so does the runner, or not."""
        self._beat(**({"runner_seen_at": self._clock()} if runner else {}))

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._pulse = self._pulse.model_copy(update=fields)
            self._put()

    def _beat(self, **fields: Any) -> None:
        with self._lock:
            self._pulse = self._pulse.model_copy(update=fields)
            waited = (self._clock() - self._pulse.written_at).total_seconds()
            if not 0 <= waited < EVERY_S:
                self._put()

    def _put(self) -> None:
        """Not fsynced: after a power cut nobody's pulse is worth anything."""
        self._pulse = self._pulse.model_copy(update={"written_at": self._clock()})
        fresh = self._state / f"{NAME}.tmp"
        with contextlib.suppress(OSError):
            self._state.mkdir(parents=True, exist_ok=True)
            fresh.write_text(self._pulse.model_dump_json(), "utf-8")
            os.replace(fresh, self._state / NAME)
