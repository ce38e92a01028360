"""Keeps every wanted run alive: whose process died, another one goes on from its folder.

A run is one folder. Whoever works in it holds its lock, and the system drops a lock with its holder;
so a free lock is the one sign of death that is never wrong, whatever Flower believes of the run.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stillroom.common.errors import StillroomError
from stillroom.server.store.folder import RESULT, STATE, is_free
from stillroom.server.store.journal import Journal
from stillroom.server.store.runs import RUNNING, Run, Runs

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
START_S = 30.0
"""From Flower's saying that a process runs to its having taken the lock: imports, mostly."""
ASK_EVERY_S = 1.0
"""How often Flower is asked about a process that has not taken its lock yet."""
SHORT_S = 60.0
"""A process that lives no longer and gets nothing done counts as a failed start."""
PAUSES_S = (0.0, 2.0, 10.0)
"""Before a start: after none, one or two failed ones in a row. After three, nobody tries again."""


class Starter(Protocol):
    """What is asked of Flower; ``operator.Operator`` does it."""

    def start(self, study: Path, run: Path, name: str = "") -> int:
        """Start a process for a run; returns Flower's number of it."""
        ...

    def stop(self, run_id: int) -> None:
        """Forget a process."""
        ...

    def status(self, run_id: int) -> str:
        """Flower's word for it."""
        ...


@dataclass(slots=True)
class _Watched:
    """What is remembered of a run between two looks; times by the steady clock.

    Attributes:
        started: When its newest process was started by us; None before, or once that has died.
        asked: When Flower was asked last.
        held: Whether the lock was held since.
        step: Of its state when that process was started.
        failures: Starts in a row that got nothing done.
        next_at: No start before.
    """

    started: float | None = None
    asked: float = float("-inf")
    held: bool = False
    step: int = -1
    failures: int = 0
    next_at: float = float("-inf")


class Keeper:
    """Looks at every run, again and again.

    Args:
        path: The table of runs.
        starter: Asked to start and stop processes.
        clock: Seconds of a steady clock.
    """

    def __init__(
        self, path: Path, starter: Starter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._starter, self._clock = path, starter, clock
        self._watched: dict[str, _Watched] = {}

    def look(self) -> None:
        """One look at every run; what cannot be done now is done at a later one."""
        try:
            with Runs(self._path) as runs:
                for run in runs.all():
                    self._look_once(run, runs)
        except StillroomError as error:
            # A full disk, mostly. Whoever looks must still be here when there is room again.
            log.warning("keeper.later", extra={"note": str(error)})

    def _look_once(self, run: Run, runs: Runs) -> None:
        if run.wanted != RUNNING or (run.folder / RESULT).exists():
            self._watched.pop(run.name, None)
            return
        try:
            self._look_at(run, self._watched.setdefault(run.name, _Watched()), runs)
        except (StillroomError, OSError) as error:
            # The SuperLink is starting, or in trouble of its own.
            log.warning("keeper.later", extra={"note": str(error)})

    def _look_at(self, run: Run, seen: _Watched, runs: Runs) -> None:
        now = self._clock()
        if not is_free(run.folder):
            seen.held = True
            if seen.started is not None and now - seen.started > SHORT_S:
                seen.failures = 0
            return
        if seen.started is not None:
            if not seen.held and self._is_coming(run, seen, now):
                return
            self._count(run, seen, now)
        if seen.failures >= len(PAUSES_S):
            log.error("keeper.gave_up", extra={"note": run.name})
            reason = f"ended {seen.failures} times in a row without getting anything done"
            Journal(run.folder).event("study.paused", reason=reason)
            runs.give_up(run.name, time.time(), f"STR-502: {reason}; see the SuperExec's log")
            self._watched.pop(run.name)
        elif now >= seen.next_at:
            self._start(run, seen, runs)

    def _is_coming(self, run: Run, seen: _Watched, now: float) -> bool:
        """Whether a process that has not taken its lock yet may still do so."""
        if now - seen.asked < ASK_EVERY_S or run.flower_run is None:
            return True
        seen.asked = now
        status = self._starter.status(run.flower_run)
        if status.startswith("finished"):
            return False
        if not status.startswith("running"):
            # No SuperExec has taken it: however long that lasts, another start would wait as well.
            seen.started = now
            return True
        return now - (seen.started or now) < START_S

    def _count(self, run: Run, seen: _Watched, now: float) -> None:
        """A process has ended: did it get anything done?"""
        lived = now - (seen.started or now)
        progress = step_of(run.folder) != seen.step
        seen.failures = 0 if progress or lived > SHORT_S else seen.failures + 1
        seen.started, seen.held = None, False
        if seen.failures < len(PAUSES_S):
            seen.next_at = now + PAUSES_S[seen.failures]

    def _start(self, run: Run, seen: _Watched, runs: Runs) -> None:
        if run.flower_run is not None:
            try:
                # Its number must not come alive again beside the new one.
                self._starter.stop(run.flower_run)
            except StillroomError:
                log.debug("keeper.nothing_to_stop")
        seen.step = step_of(run.folder)
        number = self._starter.start(run.study, run.folder, run.name)
        runs.started(run.name, number)
        seen.started, seen.held = self._clock(), False
        log.info("keeper.started", extra={"note": run.name})


def step_of(folder: Path) -> int:
    """Steps that a run has behind it; -1 before its first, or when that cannot be read."""
    try:
        state: Any = Journal(folder).read(STATE)
        return int(state["step"])
    except (ValueError, TypeError, KeyError, OSError):
        return -1
