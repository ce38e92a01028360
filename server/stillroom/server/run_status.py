"""Where a run is, from what lies in its folder: whether the server is up or not."""

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from stillroom.common.signed_study import read_signature
from stillroom.common.study import PreparedStudy
from stillroom.server.chronicle import Chronicle
from stillroom.server.depot import Depot
from stillroom.server.endings import stopped
from stillroom.server.logbook import Logbook
from stillroom.server.store.folder import RESULT, STATE, RunFolder, claimed, is_free
from stillroom.server.store.journal import Journal, describe, read_events
from stillroom.server.store.runs import ENDED, RUNNING, Run

IN_WORDS = {
    "inventory": "asking who has what",
    "wave": "opening the next stages",
    "round": "opening a round",
    "check": "scoring at held-out sites",
    "score": "scoring",
    "done": "",
}
"""Phase of ``rounds.state`` -> what is shown while no round is open."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as it is now.

    Attributes:
        state: ``running``, ``starting``, ``paused``, ``ending``, ``completed`` or ``failed``.
        study: Name of the study; empty when it cannot be read.
        stages: Open stages with their rounds, in words.
        last: Last event that has words.
        last_at: Its time, seconds since the epoch; None before the first.
        answered: Sites that have answered in the open round.
        awaited: Sites that have not.
        since: When the open round was opened, seconds since the epoch; None outside of rounds.
        reason: Why it does not run, in words.
    """

    state: str
    study: str
    stages: str
    last: str
    last_at: float | None
    answered: tuple[str, ...]
    awaited: tuple[str, ...]
    since: float | None
    reason: str


def standing(run: Run) -> Standing:
    """Where ``run`` is. Reads files; changes nothing."""
    journal = Journal(run.folder) if run.folder.exists() else None
    result = journal.read(RESULT) if journal else None
    state = journal.read(STATE) if journal else None
    invited: dict[tuple[str, str], bool] = {}
    rounds: dict[str, str] = {}
    last, last_at, since = "", None, None
    for _, event in read_events(run.folder):
        name = event["event"]
        if name == "study.resumed":
            invited, rounds = {}, {}
        elif name == "round.opened":
            if not rounds:
                since = event["t"]
            rounds[event["stage"]] = f"{event['stage']}, round {event['round']} of {event['of']}"
            invited |= {(event["stage"], site): False for site in event["invited"]}
        elif name == "site.answered" and event["status"] != "late":
            invited[event["stage"], event["site"]] = True
        elif name == "round.closed":
            rounds.pop(event["stage"], None)
            invited = {key: here for key, here in invited.items() if key[0] != event["stage"]}
        if text := describe(event):
            last, last_at = text, event["t"]
    over = result is not None
    phase = "" if state is None else IN_WORDS.get(state["phase"], "")
    word = _word(run, result)
    if word == "paused":
        # Nobody is waited for: the round is asked again when the run goes on.
        invited = {}
    return Standing(
        state=word,
        study=_study_name(run),
        stages="" if over else "; ".join(rounds.values()) or phase,
        last=last,
        last_at=last_at,
        answered=tuple(sorted({site for (_, site), here in invited.items() if here})),
        awaited=() if over else tuple(sorted({s for (_, s), here in invited.items() if not here})),
        since=since if invited and rounds and not over else None,
        reason=_reason(run, result),
    )


def end_idle(run: Run, depot: Depot, book: Logbook | None = None) -> bool:
    """End a run for good that nobody works in; False while somebody does, who then has to.

    Args:
        run: The run.
        depot: Where its files are on their way.
        book: The log that is told.

    Raises:
        TrustError: STR-204, STR-514, the study or the run's folder is damaged.
    """
    from stillroom.server.study_run import StudyRun  # noqa: PLC0415  # only here

    with contextlib.ExitStack() as stack:
        if not is_free(run.folder):
            return False
        stack.enter_context(claimed(run.folder))
        prepared = PreparedStudy.load(run.study)
        folder = RunFolder(run.folder, run.study / "weights")
        chronicle = Chronicle(book, run.name[:64], read_signature(run.study))
        StudyRun(
            prepared,
            folder,
            None,  # type: ignore[arg-type]  # asks nobody
            depot,
            chronicle=chronicle,
        ).end(stopped())
    return True


def ago(then: float | None) -> str:
    """How long something is past, in words for a table."""
    if then is None:
        return ""
    seconds = max(0, int(time.time() - then))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _word(run: Run, result: dict[str, Any] | None) -> str:
    if result is not None:
        return str(result["status"])
    if not is_free(run.folder):
        return "running"
    return {RUNNING: "starting", ENDED: "ending"}.get(run.wanted, "paused")


def _reason(run: Run, result: dict[str, Any] | None) -> str:
    if result is not None:
        return f"{result['error']['code']}: {result['error']['what']}" if result["error"] else ""
    return run.reason


def _study_name(run: Run) -> str:
    try:
        raw = (run.study / "study.json").read_bytes()
        return PreparedStudy.model_validate_json(raw).study.study.name
    except (OSError, ValueError):
        return ""
