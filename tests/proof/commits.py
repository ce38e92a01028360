"""Every file-system call of a whole round, failing in turn; and SIGKILL before each.

From the question to the sites until what the round left is tidied away: uploads, the new model, the
records, what is kept for a replay, the state, the log, the journal. After each fault the study is
started again in a process without one, and must end as if nothing had happened.
"""

import functools
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tracing
import trial
from faults import read_whole

from stillroom.common.errors import StillroomError
from stillroom.common.log_entries import RoundCommitted, StudyFinished, parse_entry
from stillroom.server.audit.history import tell
from stillroom.server.endings import Paused
from stillroom.server.study_run import StudyRun

ROUND = 2
"""It has a round before it, whose files it tidies away, and one after it."""
WAYS = ("lost", "done", "killed")


@dataclass(frozen=True)
class Fault:
    """One fault in one call of a round.

    Attributes:
        way: As ``tracing.traced`` has them.
        call: Its name.
        number: Which call of the round, from 1.
        why: What was not as it must be afterwards; empty when it survived.
        committed: Whether the state was already the next round's.
    """

    way: str
    call: str
    number: int
    why: str
    committed: bool


def run_commits(
    folder: Path, *, ways: Sequence[str] = WAYS, stride: int = 1, workers: int = 1
) -> list[Fault]:
    """The whole matrix, or every ``stride``-th call of it, in so many processes."""
    ready = trial.Trial(folder / "ready", "bf16-delta", {"server": "fedadam"})
    _expect_pause(ready.start(_until(ROUND)))
    whole = _copy(ready, folder / "whole")
    calls = tracing.traced(lambda: _one_round(whole)).calls
    _finish(whole)
    tried = [(way, n) for n in range(1, len(calls) + 1, stride) for way in ways]
    work = functools.partial(_try, ready, folder, calls, _models(whole))
    if workers == 1:
        return [work(one) for one in tried]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(work, tried, chunksize=4)


def _try(
    ready: trial.Trial,
    folder: Path,
    calls: Sequence[str],
    expected: dict[str, str | None],
    which: tuple[str, int],
) -> Fault:
    way, number = which
    one = _copy(ready, folder / f"{way}-{number}")
    ended = tracing.traced(lambda: _one_round(one), way, number)
    state = json.loads((one.run / "state.json").read_bytes())
    committed = state["closed"].get(trial.STAGE, 0) >= ROUND
    try:
        _finish(one)
        why = _problem(one, expected) if len(ended.calls) >= number else "it was not reached"
    except (StillroomError, Paused, OSError, AssertionError) as error:
        why = f"{type(error).__name__}: {error}"
    shutil.rmtree(one.folder)
    return Fault(way, calls[number - 1], number, why, committed)


def _problem(one: trial.Trial, expected: dict[str, str | None]) -> str:
    """What a disturbed study has that an undisturbed one has not, or lacks; empty for nothing."""
    entries = read_whole(one.log)
    if entries is None:
        return "the log does not verify"
    parsed = [parse_entry(raw) for raw in entries]
    commits = [entry.round for entry in parsed if isinstance(entry, RoundCommitted)]
    if commits != list(range(1, one.rounds + 1)):
        return f"the log commits rounds {commits}"
    if sum(isinstance(entry, StudyFinished) for entry in parsed) != 1:
        return "the log has not one end of the study"
    if tell(enumerate(parsed)).strays:
        return "the log has entries that belong to nothing"
    if _models(one) != expected:
        return "other models than those of an undisturbed run"
    left = [path.name for path in (one.folder / "depot" / "in").rglob("*") if path.is_file()]
    return f"updates are left over: {len(left)}" if left else ""


def _one_round(one: trial.Trial) -> int:
    """Go on until the round is behind us; the status says whether it is."""
    try:
        one.start(_until(ROUND + 1)).run()
    except Paused as pause:
        return 1 if pause.give_up else 0
    return 2


def _finish(one: trial.Trial) -> None:
    """Start the study as often as its keeper would, until it has ended."""
    one.start().run()
    status = json.loads((one.run / "result.json").read_bytes())["status"]
    if status != "completed":
        raise AssertionError(f"the study ended as {status}")


def _until(number: int) -> Callable[[StudyRun], None]:
    def heed(run: StudyRun) -> None:
        if run.state.phase == "round" and run.state.number == number:
            raise Paused("far enough")

    return heed


def _expect_pause(run: StudyRun) -> None:
    try:
        run.run()
    except Paused:
        return
    raise AssertionError("the study ended before the round")


def _copy(ready: trial.Trial, folder: Path) -> trial.Trial:
    shutil.copytree(ready.folder, folder)
    return replace(ready, folder=folder)


def _models(one: trial.Trial) -> dict[str, str | None]:
    """Record of every round -> its model, and which models are on disk at the end."""
    records = {
        path.stem: json.loads(path.read_bytes())["model_sha256"]
        for path in sorted(one.run.glob("round-*.json"))
    }
    return {**records, **{path.name: None for path in sorted((one.run / "weights").iterdir())}}


def table(found: Sequence[Fault]) -> list[str]:
    """Markdown: one row a way, and which calls there were."""
    words = {
        "lost": "the call fails (no space) and does nothing",
        "done": "the call fails and is done all the same",
        "killed": "SIGKILL before the call",
    }
    lines = [
        "| at every call of a round | tried | survived | round was committed |",
        "|---|---|---|---|",
    ]
    for way, text in words.items():
        mine = [fault for fault in found if fault.way == way]
        if mine:
            kept = sum(fault.committed for fault in mine)
            good = sum(not fault.why for fault in mine)
            lines.append(f"| {text} | {len(mine)} | {good} | {kept} |")
    calls = Counter(fault.call for fault in found if fault.way == found[0].way)
    lines += ["", "Calls: " + ", ".join(f"{n} {name}" for name, n in calls.most_common()) + "."]
    lines += [f"- {f.way} at call {f.number} ({f.call}): {f.why}" for f in found if f.why]
    return lines
