"""``make chaos``: processes killed at every moment of a round, bad lines, full disks, jumping clocks.

Ends with one line, ``kills K/N survived, wrong aggregates W, rounds lost R``, and with status 1
unless K = N and W = R = 0 and everything else held too.

    python -P tests/chaos/run.py [--seed 7] [--only kills|lines|faults] [--points 003,014] [--sample]
                                 [--keep FOLDER]

Once every part was tried, in one run or in several with the same ``--keep``, docs/reference/chaos.md
is written from all of them.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.with_name("bench")), str(HERE.parent / "bench" / "inject")]

import points  # noqa: E402  # beside this file, which is no package
import report  # noqa: E402
from plan import Plan  # noqa: E402
from supervisor import Verdict, run_study  # noqa: E402

SHAPES = {
    "encoder.weight": (64, 32, 3, 3, 3),
    "encoder.bias": (64,),
    "decoder.weight": (32, 64, 3, 3, 3),
    "heads.vessels.weight": (3, 32, 1, 1, 1),
    "heads.vessels.bias": (3,),
    "heads.points.weight": (7, 32, 1, 1, 1),
}
"""111 thousand values: an upload takes several pieces, a round well under a second."""
GROUPS = {
    "site-001": {"encoder": 2, "decoder": 2, "head.vessels": 2},
    "site-002": {"encoder": 3, "decoder": 3, "head.vessels": 0},
    "site-003": {"encoder": 5, "decoder": 5, "head.vessels": 4},
}
"""Unequal counts; one head that one site does not train, and one that nobody does."""
ENCODINGS = ("int8-delta", "bf16-delta", "fp32")
ROUNDS, TRAINING_S = 3, 0.1


@dataclass
class Total:
    """What became of one part.

    Attributes:
        rows: One per kill, line or fault.
        wrong: Rounds whose model is not the recomputed one.
        lost: Rounds that were never committed, or more than once.
        problems: Everything that did not hold, in words.
        left_out: Why this part cannot be tried on this machine.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    wrong: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)
    left_out: str | None = None

    def count(self, verdict: Verdict) -> None:
        """One study's rounds."""
        self.wrong += verdict.wrong
        self.lost += verdict.lost

    def add(self, hooks: Sequence[Mapping[str, Any]], verdict: Verdict) -> None:
        """One study's kills."""
        self.count(verdict)
        for hook in hooks:
            # A study that fails takes all its kills with it: which one it was is for a person.
            alive = not verdict.problems and hook["id"] in verdict.fired
            self.rows.append(
                {
                    **{key: hook[key] for key in ("id", "who", "moment", "round")},
                    "survived": alive,
                    "resumed_s": verdict.resumed_s.get(hook["id"]),
                    "away_s": verdict.away_s.get(hook["id"]),
                }
            )

    def as_json(self, seconds: float) -> dict[str, Any]:
        """For ``chaos.json`` and the page."""
        found = {"rows": self.rows, "wrong": self.wrong, "lost": self.lost}
        why = {"left_out": self.left_out} if self.left_out else {}
        load = round(os.getloadavg()[2], 1)
        return {**found, "problems": self.problems, "seconds": round(seconds), "load": load, **why}


def plan(out: Path, number: int, *, sites: int = 3, **more: Any) -> Plan:
    """The study of the matrix; encodings take turns."""
    samples = {name: GROUPS[name] for name in list(GROUPS)[:sites]}
    defaults: dict[str, Any] = {
        "shapes": SHAPES,
        "rounds": ROUNDS,
        "samples": samples,
        "seconds": TRAINING_S,
        "stage": {"exchange": {"encoding": ENCODINGS[number % len(ENCODINGS)]}},
    }
    return Plan(out=out, sites=sites, **{**defaults, **more})


def kills(scratch: Path, seed: int, only: frozenset[str]) -> Total:
    """The whole matrix."""
    total = Total()
    for number, hooks in enumerate(points.studies(seed, ROUNDS)):
        chosen = [hook for hook in hooks if not only or hook["id"] in only]
        if not chosen:
            continue
        study = plan(scratch / f"kills-{number:02d}", number)
        verdict = run_study(study, chosen, seed=seed + number)
        total.add(chosen, verdict)
        tell(study, chosen, verdict)
        if verdict.again:
            total.problems.append(f"{study.out.name}: {verdict.again} trainings of answered rounds")
    say("\nfrom the kill, with the 0 to 3 s until the restart, and from that:")
    for who, count, middle, most, back in report.times(total.rows):
        took = f"{middle:.1f} s (median), {most:.1f} s (most)"
        say(f"  {who:13s} {count:2d} kills, {took}, {back:.1f} s (most from the restart)")
    return total


def tell(study: Plan, hooks: Sequence[Mapping[str, Any]], verdict: Verdict) -> None:
    """One study in a few lines."""
    encoding = study.stage["exchange"]["encoding"]
    say(f"\n{study.out.name}, {encoding}, {verdict.seconds:.1f} s")
    for hook in hooks:
        seconds = verdict.resumed_s.get(hook["id"])
        said = (
            "never reached"
            if hook["id"] not in verdict.fired
            else (f"goes on after {seconds:.1f} s" if seconds is not None else "does not go on")
        )
        say(f"  {hook['id']} {hook['who']}: {hook['moment']}, round {hook['round']}: {said}")
    for problem in verdict.problems:
        say(f"  PROBLEM {problem}")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def sample(scratch: Path) -> Total:
    """Three kills in one study, for the tests."""
    total = Total()
    hooks = points.chosen(
        [
            (points.APP, "while the new model is written"),
            (points.GATEWAY, "encoded, not in the ledger"),
            (points.WORKER, "answer kept, not told"),
        ]
    )
    study = plan(scratch / "sample", 0, rounds=2)
    verdict = run_study(study, hooks, seed=0, timeout_s=50)
    total.add(hooks, verdict)
    tell(study, hooks, verdict)
    return total


def tried(part: str, scratch: Path, given: argparse.Namespace) -> Total:
    """One part."""
    if part == "sample":
        return sample(scratch)
    if part == "lines":
        from bad_lines import bad_lines

        return bad_lines(scratch, Total())
    if part == "faults":
        from faults import faults

        return faults(scratch, Total())
    return kills(scratch, given.seed, frozenset(filter(None, given.points.split(","))))


def main() -> int:
    """Everything, or the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=report.PARTS)
    parser.add_argument("--points", default="", help="Ids of kills, comma-separated.")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--keep", type=Path, help="Folder for everything that was written.")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # Told to stop, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parts = ("sample",) if given.sample else (given.only,) if given.only else report.PARTS
    with tempfile.TemporaryDirectory(prefix="stillroom-chaos-") as temporary:
        scratch = given.keep or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        kept, ours = scratch / "chaos.json", dict[str, Any]()
        for part in parts:
            started = time.monotonic()
            ours[part] = tried(part, scratch, given).as_json(time.monotonic() - started)
            known = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
            results = {**known, part: ours[part]}
            kept.write_text(json.dumps(results, indent=1), "utf-8")
            if report.whole(results):
                report.write({name: results[name] for name in report.PARTS})
    problems = [problem for part in ours.values() for problem in part["problems"]]
    for problem in problems:
        say(f"PROBLEM {problem}")
    line, good = report.verdict(ours)
    say(line)
    return 0 if good and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
