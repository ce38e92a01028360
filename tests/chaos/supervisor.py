"""Runs a study whose processes die, starts them again, and looks at what came of it."""

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recomputation
from consortium import Consortium
from plan import STAGE, Plan, records
from points import NOTHING_KEPT

STUDY_S = 300.0
"""A study of a few rounds that takes longer is taken for stuck."""


@dataclass
class Verdict:
    """What became of one study.

    Attributes:
        fired: Id of a kill -> its note (``inject/hooks.py``).
        resumed_s: Id -> seconds from the kill to the next sign of progress.
        away_s: Id -> seconds between the kill and the restart.
        wrong: Rounds whose model is not the recomputed one.
        lost: Rounds that were never committed, or more than once.
        again: Trainings of a round that had been answered already, per site and round.
        problems: In words; empty for a study that survived.
        seconds: The whole study.
    """

    fired: dict[str, dict[str, Any]] = field(default_factory=dict)
    resumed_s: dict[str, float] = field(default_factory=dict)
    away_s: dict[str, float] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0
    again: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Supervisor:
    """Restarts what ends, at once or after up to three seconds, as a service manager does."""

    def __init__(self, consortium: Consortium, seed: int, *, patience_s: float = 3.0) -> None:
        self.consortium = consortium
        self.chance = random.Random(seed)  # noqa: S311  # repeatable
        self.patience_s = patience_s
        self.due: dict[str, float] = {}
        self.restarts: list[tuple[str, float]] = []

    def tend(self) -> None:
        """One look at every process."""
        now = time.monotonic()
        for name, process in list(self.consortium.running.items()):
            if process.poll() is None:
                continue
            if name not in self.due:
                self.due[name] = now + self.chance.choice([0.0, self.chance.uniform(1, 3)]) * (
                    self.patience_s / 3.0
                )
            elif now >= self.due[name]:
                del self.due[name]
                self.restarts.append((name, time.time()))
                self.consortium.start(name)


def run_study(
    plan: Plan,
    points: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    timeout_s: float = STUDY_S,
    tend: Sequence[Any] = (),
    hooks: Mapping[str, Any] | None = None,
) -> Verdict:
    """Run one study with kills at ``points`` and judge it."""
    consortium = Consortium(plan, {**(hooks or {}), "points": list(points)})
    consortium.found()
    supervisor = Supervisor(consortium, seed)
    verdict, started = Verdict(), time.monotonic()
    try:
        consortium.start_all()
        consortium.wait(timeout_s, tend=[supervisor.tend, *tend])
        time.sleep(0.3)
    except (TimeoutError, RuntimeError) as error:
        verdict.problems.append(str(error))
    finally:
        consortium.stop()
    verdict.seconds = time.monotonic() - started
    judge(plan, consortium, verdict)
    _time(consortium, verdict, supervisor)
    for point in points:
        if point["id"] not in verdict.fired:
            verdict.problems.append(f"{point['id']} was never reached")
    return verdict


def judge(
    plan: Plan,
    consortium: Consortium,
    verdict: Verdict,
    *,
    absent: frozenset[str] = frozenset(),
) -> None:
    """Hold what was recorded against the recomputation.

    Args:
        plan: What was run.
        consortium: That ran it.
        verdict: Completed here.
        absent: Sites that rounds before the last may do without.
    """
    run = plan.layout.run
    for path in (plan.out / "fired").iterdir():
        verdict.fired[path.name] = json.loads(path.read_text("utf-8") or "{}")
    result = run / "result.json"
    status = json.loads(result.read_text("utf-8"))["status"] if result.exists() else "no result"
    if status != "completed":
        verdict.problems.append(f"the study ended with {status}")
    found = records(run)
    events = [e["round"] for e in consortium.events() if e["event"] == "round.closed"]
    committed = [record["round"] for record in found]
    verdict.lost = sum(
        committed.count(n) != 1
        or events.count(n) > 1
        or not _took_part(plan, found[committed.index(n)], absent if n < plan.rounds else ())
        for n in range(1, plan.rounds + 1)
    )
    orders = [record["order"] for record in found]
    expected = recomputation.rounds(
        plan.shapes,
        plan.cases_of(),
        encoding=plan.stage.get("exchange", {}).get("encoding", "fp32"),
        stage=STAGE,
        orders=orders,
    )
    given = [record.get("model_sha256") for record in found]
    verdict.wrong = sum(a != b for a, b in zip(given, expected, strict=True))
    verdict.again = _trained_again(plan.out / "trained", verdict.fired.values())
    if verdict.wrong or verdict.lost:
        verdict.problems.append(f"{verdict.wrong} wrong aggregates, {verdict.lost} rounds lost")


def _took_part(plan: Plan, record: Mapping[str, Any], absent: Iterable[str]) -> bool:
    """Whether everybody's update is in a round, once and in order, but for who may be absent."""
    order = record["order"]
    return order == [n for n in plan.names if n in order] and set(plan.names) <= {*order, *absent}


def trainings(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Site and line of everything the recipe noted."""
    return [
        (path.stem, json.loads(line))
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]


def _trained_again(folder: Path, kills: Iterable[Mapping[str, Any]]) -> int:
    """Trainings of a round whose answer was kept already."""
    ended = [(site, n["round"]) for site, n in trainings(folder) if n["what"] == "ended"]
    lost = {(k["site"], k["round"]) for k in kills if k.get("moment") in NOTHING_KEPT}
    return len(ended) - len(set(ended)) - len(lost & set(ended))


def _time(consortium: Consortium, verdict: Verdict, supervisor: Supervisor) -> None:
    """From each kill to the next thing that the killed one's work led to, and to the restart."""
    events = consortium.events()
    for name, note in verdict.fired.items():
        killed, site = note["t"], note.get("site", "")
        if site:
            signs = [e["t"] for e in events if e.get("site") == site]
            signs += [n["t"] for s, n in trainings(consortium.plan.out / "trained") if s == site]
        else:
            signs = [e["t"] for e in events]
        signs += [e["t"] for e in events if e["event"] == "study.finished"]
        later = [t for t in signs if t > killed + 0.05]
        # One that dies when all is done is not started again.
        back = [
            min(
                (t for who, t in supervisor.restarts if who == dead and t >= killed),
                default=killed,
            )
            for dead in _restarted(note)
        ]
        # The server app is started again by the process that started it: nothing is waited for.
        verdict.away_s[name] = round(max(back, default=killed) - killed, 2)
        if later:
            verdict.resumed_s[name] = round(min(later) - killed, 2)


def _restarted(note: Mapping[str, Any]) -> list[str]:
    """Names of the processes that one kill makes the supervisor start again."""
    if note["victims"]:
        return list(note["victims"])
    site, role = note["site"], note["role"]
    return [f"{site}-{role}"] if site else [role] if role == "link" else []
