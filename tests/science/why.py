"""``make science WHY=1``: small experiments on why a claim does not hold at this size.

Each changes one thing of the arms that are reported, on the same seeds, and nothing of what it finds is
taken over by the product or by those arms. ``make science`` prints what lies in the folder of results on
its page; here that page is written anew when it is there.

    python -P tests/science/why.py [--seeds 3] [--family prompt] [--resume] [--jobs 2] [--keep FOLDER]
"""

import argparse
import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import claims  # noqa: E402  # beside this file, which is no package
import jobs  # noqa: E402
from why_questions import QUESTIONS, section  # noqa: E402

FAMILIES = tuple(question.family for question in QUESTIONS)


def main() -> int:
    """Status 1 when an experiment broke."""
    options = _options()
    quick = options.quick or os.environ.get("QUICK", "") not in {"", "0"}
    if options.one:
        family, seed, folder = options.one
        return _one(claims.why(family, int(seed)), Path(folder), quick=quick)
    folder = options.keep / ("why-quick" if quick else "why")
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    families = options.family or list(FAMILIES)
    wanted = [claims.why(one, seed) for seed in claims.SEEDS[: options.seeds] for one in families]
    failed = jobs.run_all(
        wanted, folder, at_once=options.jobs, seconds=None, quick=quick, say=claims.say
    )
    claims.say("\n\n".join(section(claims.answers(folder))))
    if quick:
        claims.say("QUICK: everything runs; nothing of these figures is a result.")
    elif not failed:
        claims.write_again(options.keep)
    return 1 if failed else 0


def _one(job: jobs.Job, folder: Path, *, quick: bool) -> int:
    """What a process of its own does."""
    began, cpu = time.time(), time.process_time()
    found: Any = importlib.import_module(f"why_{job.family}")
    rows = found.run(job.seed, quick=quick)
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.time() - began}
    jobs.keep(job, folder, {"rows": rows, **spent})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(claims.SEEDS) + 1))
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=claims.KEEP)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
