"""``make science``: the claims of five papers, held against this implementation.

Every seed's figures are kept as they come; ``--resume`` goes on from those that are there. At full size,
and when every seed asked for was run, docs/reference/science.md, science.json and the pictures are
written; else they lie in the folder of results and only the verdicts are printed. ``QUICK=1``
shows in minutes that everything runs; its figures mean nothing.

    python -P tests/science/claims.py [--seeds 3] [--family spine] [--minutes 60] [--resume]
                                      [--jobs 2] [--keep FOLDER]
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import jobs  # noqa: E402  # beside this file, which is no package
import summary_page  # noqa: E402
from gates import FAMILIES  # noqa: E402
from why_questions import QUESTIONS  # noqa: E402

SEEDS = (11, 12, 13, 14, 15)
"""Those below ten were left to development."""
PUBLISHED = ROOT / "docs" / "reference"
KEEP = ROOT / "science-out"


def main() -> int:
    """Status 1 when an arm broke or was not run; a claim that fails is a result."""
    options = _options()
    quick = options.quick or os.environ.get("QUICK", "") not in {"", "0"}
    if options.one:
        family, seed, folder = options.one
        return _one(jobs.Job(family, int(seed)), Path(folder), quick=quick)

    # 1. What has to be run, seed by seed, so that a run that ends early has whole seeds.
    folder = options.keep / ("quick" if quick else "full")
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    seeds, names = SEEDS[: options.seeds], options.family or list(FAMILIES)
    wanted = [jobs.Job(family, seed) for seed in seeds for family in names]

    # 2. As processes; what is cut off leaves nothing and is not run.
    began = time.monotonic()
    seconds = None if options.minutes is None else 60 * options.minutes
    failed = jobs.run_all(
        wanted, folder, at_once=options.jobs, seconds=seconds, quick=quick, say=say
    )
    say(f"{(time.monotonic() - began) / 60:.1f} minutes")

    # 3. Verdicts from what is there.
    results = _collect(wanted, folder)
    whole = set(wanted) == {jobs.Job(f, s) for f in FAMILIES for s in seeds}
    complete = all(job.result(folder) is not None for job in wanted)
    claims = summary_page.judged(results)
    published = PUBLISHED if whole and complete and not quick else folder
    _write(published, claims, results, {} if quick else answers(options.keep / "why"))
    for claim in claims:
        say(_line(claim))
    if quick:
        say("QUICK: everything runs; nothing of these figures is a result.")
    say(summary_page.last_line(claims))
    return 0 if complete and not failed else 1


def _one(job: jobs.Job, folder: Path, *, quick: bool) -> int:
    """What a process of its own does: one family on one seed."""
    # Only here: torch takes seconds to load, and whoever waits for processes needs none of it.
    from families import RUNS

    began, cpu = time.time(), time.process_time()
    found = RUNS[job.family](job.seed, quick=quick)
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.time() - began}
    jobs.keep(job, folder, {**found, **spent})
    return 0


def _collect(wanted: Sequence[jobs.Job], folder: Path) -> dict[str, dict[int, Any]]:
    results: dict[str, dict[int, Any]] = {family: {} for family in FAMILIES}
    for job in wanted:
        if (found := job.result(folder)) is not None:
            results[job.family][job.seed] = found
    return results


def why(family: str, seed: int) -> jobs.Job:
    """An experiment on why a claim fails, as a job."""
    return jobs.Job(family, seed, worker="why.py")


def answers(folder: Path) -> dict[str, dict[int, Any]]:
    """Experiment -> seed -> what was kept of it in ``folder``."""
    found: dict[str, dict[int, Any]] = {}
    for question in QUESTIONS:
        of = {seed: why(question.family, seed).result(folder) for seed in SEEDS}
        found[question.family] = {seed: one for seed, one in of.items() if one is not None}
    return found


def write_again(keep: Path) -> None:
    """Write the published page anew from the figures beside it, with what experiments are in ``keep``."""
    path = PUBLISHED / "science.json"
    if not path.exists():
        return say("The page is not written yet: `make science` writes it.")
    kept = json.loads(path.read_text("utf-8"))["results"]
    results = {f: {int(seed): one for seed, one in seeds.items()} for f, seeds in kept.items()}
    _write(PUBLISHED, summary_page.judged(results), results, answers(keep / "why"))
    return None


def _write(
    folder: Path,
    claims: list[dict[str, Any]],
    results: dict[str, dict[int, Any]],
    why: dict[str, dict[int, Any]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = summary_page.pictures(results)
    for name, picture in drawn.items():
        (folder / name).write_text(picture, "utf-8")
    # Only here, as in `_one`.
    from designs import designs

    text = summary_page.page(claims, results, list(drawn), why, designs())
    (folder / "science.md").write_text(text, "utf-8")
    counted = summary_page.counts(claims)
    value = {"claims": claims, "counts": counted, "results": results, "why": why}
    (folder / "science.json").write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    say(f"written: {folder / 'science.md'}")


def _line(claim: dict[str, Any]) -> str:
    gates = [
        f"{one['gate']['ratio']} {one['median']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}] "
        f"{one['gate']['side']} {one['gate']['value']:g}"
        for one in claim["gates"]
        if one["interval"]
    ]
    return f"{claim['claim']}  {claim['verdict'] or 'reported'}  " + "; ".join(gates)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(SEEDS) + 1))
    parser.add_argument("--family", action="append", choices=tuple(FAMILIES))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=KEEP)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
