"""What log and witnesses add to a round of a 62 M-parameter model, timed where they are called.

Three sites, their server and mutual TLS as in ``performance``; nothing is trained, so a round is as
short as it can be. A round without its log would be another program, so nothing is switched off:
every append, every cosignature and every look of a witness is timed, and all of a study's are
shared out over its rounds, those of its beginning and its end included. A site looks while the
model comes; what counts as waiting is what remains of the look when the model is there.

    python -P tests/bench/bench_log.py [--rounds 6]
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "inject")]

import models  # noqa: E402  # beside this file, which is no package
import studies  # noqa: E402
from plan import Plan  # noqa: E402


def measure(out: Path, rounds: int) -> dict[str, Any]:
    """Seconds of a round, and those of them that the log takes.

    Args:
        out: A new folder.
        rounds: Of the study.
    """
    shapes = models.swin_unetr(out.with_name("swin-unetr.json"))
    plan = Plan(out=out, shapes=shapes, sites=3, rounds=rounds, stage={})
    found = studies.measure("log", plan, timeout_s=300.0 + 60.0 * rounds, hooks={"log": "time"})
    wall, cpu = statistics.median(found.wall_s[1:]), statistics.median(found.cpu_s[1:])
    spent = {path.name: _sums(path) for path in sorted((out / "logtimes").iterdir())}
    # What a round waits for: the server's appends, and the slowest site's look before its task, as
    # far as it takes longer than the model that comes meanwhile.
    app = spent["server-app"]["wall_s"] / rounds
    sites = [one["waited_wall_s"] for name, one in spent.items() if name.startswith("site")]
    waited = app + max(sites) / rounds
    total = sum(one["cpu_s"] for one in spent.values()) / rounds
    return {
        "rounds": rounds,
        "round_wall_s": round(wall, 2),
        "round_cpu_s": round(cpu, 2),
        "log_wall_s": round(waited, 4),
        "log_cpu_s": round(total, 4),
        "wall_share": round(waited / wall, 5),
        "cpu_share": round(total / cpu, 5),
        "calls": spent,
    }


def _sums(path: Path) -> dict[str, float]:
    rows = [line.split() for line in path.read_text("ascii").splitlines()]
    return {
        "calls": sum(name != "wait" for name, _, _ in rows),
        "wall_s": round(sum(float(wall) for name, wall, _ in rows if name != "wait"), 4),
        "looks_wall_s": round(sum(float(wall) for name, wall, _ in rows if name == "look"), 4),
        "waited_wall_s": round(sum(float(wall) for name, wall, _ in rows if name == "wait"), 4),
        "cpu_s": round(sum(float(cpu) for name, _, cpu in rows if name != "wait"), 4),
    }


def main() -> int:
    """Measure and print one JSON object; status 1 where the log takes more than a hundredth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stillroom-log-") as scratch:
        told = measure(Path(scratch) / "study", given.rounds)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return int(max(told["wall_share"], told["cpu_share"]) > 0.01)


if __name__ == "__main__":
    sys.exit(main())
