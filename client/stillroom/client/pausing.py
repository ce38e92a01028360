"""A pause: the site stays connected, takes no new task, and the work under way stops.

A pause is the file ``paused`` in ``courier_state``; it is there until somebody resumes, whatever
restarts meanwhile. The runner sees ``exchange`` alone, so the file has a twin there, which follows
it (``mirror``): without the twin the courier would hold back answers, but the GPU would go on. A
pause is no refusal: the server is told nothing, and a task that is still open on resuming is done.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stillroom.common.errors import ResourceError, StillroomError
from stillroom.common.tensorfile import write_durably

NAME = "paused"
"""In ``courier_state``, and its twin in ``exchange``."""
LONGEST_WHY = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that lasts.

    Attributes:
        since: Aware, UTC.
        why: What was said about it, for people at this site; it never leaves.
    """

    since: datetime
    why: str = ""


def pause(state: Path, why: str = "") -> None:
    """Pause this site; a pause that lasts already keeps its beginning.

    Args:
        state: ``courier_state``.
        why: For people at this site.

    Raises:
        ResourceError: STR-503, the disk.
    """
    earlier = standing(state)
    if earlier is not None and why in ("", earlier.why):
        return
    since = datetime.now(UTC) if earlier is None else earlier.since
    _write(state, {"since": since.isoformat(), "why": why[:LONGEST_WHY]})


def resume(state: Path) -> bool:
    """Go on; whether there was a pause.

    Raises:
        ResourceError: STR-503, the disk.
    """
    try:
        (state / NAME).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _disk_failed() from error
    return True


def paused_since(state: Path) -> datetime | None:
    """When the pause began, aware, UTC; None when there is none."""
    found = standing(state)
    return None if found is None else found.since


def standing(state: Path) -> Pause | None:
    """The pause that lasts; a file that cannot be understood is a pause as well."""
    path = state / NAME
    try:
        began = path.stat().st_mtime
    except OSError:
        return None
    try:
        said = json.loads(path.read_bytes())
        since = datetime.fromisoformat(said["since"])
        return Pause(since.astimezone(UTC), str(said.get("why", ""))[:LONGEST_WHY])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Pause(datetime.fromtimestamp(began, UTC))


def mirror(state: Path, exchange: Path) -> None:
    """Have the twin in ``exchange`` follow the pause; the reason is nobody's business there.

    Raises:
        ResourceError: STR-503, the disk.
    """
    here, there = standing(state), standing(exchange)
    if here is None and there is not None:
        resume(exchange)
    elif here is not None and there is None:
        _write(exchange, {"since": here.since.isoformat()})


class PauseWatch:
    """The courier's view of a pause: asked often, and every change is told once."""

    def __init__(self, state: Path, *, was: bool, note: Callable[[bool], None]) -> None:
        """Watch ``courier_state``.

        Args:
            state: That folder.
            was: Whether a pause was the last thing that was told.
            note: Told of every change.
        """
        self._state, self._was, self._note = state, was, note

    def lasts(self) -> bool:
        """Whether this site is paused now."""
        now = (self._state / NAME).exists()
        if now != self._was:
            self._was = now
            self._note(now)
        return now


def interrupted() -> ResourceError:
    """What ends the work under way. The courier keeps it to itself and gives the task again."""
    return ResourceError(
        "This site is paused.", fix="Run `stillroom-client resume`.", code="STR-515"
    )


def _write(folder: Path, value: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / NAME, json.dumps(value).encode())
    except OSError as error:
        raise _disk_failed() from error


def _disk_failed() -> StillroomError:
    return ResourceError(
        "The pause could not be written to the disk, or not be removed from it.",
        fix="Free the disk of courier_state and check that this account may write in it.",
        code="STR-503",
    )
