"""Many sites in one process: ``python simulation.py OUT SITES ROUNDS`` prints what a round costs.

The same server app, gate, encoding and aggregation as in the field, without a line; the tiny model,
noise for training. Sites answer one after the other, so the cost per site is the wall time of a
round divided by their number.
"""

import json
import resource
import statistics
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "inject")]

import models  # noqa: E402  # beside this file, which is no package
import tomli_w  # noqa: E402
from plan import Plan, prepare_study, records, write_cases  # noqa: E402
from recipe import Noise  # noqa: E402


def main(out: Path, count: int, rounds: int) -> None:
    """Run and print one JSON object."""
    from stillroom.client.recipes.registry import RECIPES
    from stillroom.deploy.local_grid import run_in_process

    stage = {"exchange": {"encoding": "bf16-delta"}}
    plan = Plan(out=out, shapes=models.TINY, sites=count, rounds=rounds, stage=stage)
    prepared = prepare_study(plan)
    log = out / "trained"
    log.mkdir()
    RECIPES["distil"] = Noise({"log": str(log), "samples": plan.cases_of()}, "")
    sites = {name: write_site(plan, name, prepared.digest) for name in plan.names}
    started, cpu = time.monotonic(), time.process_time()
    run_in_process(plan.layout.study, plan.layout.run, sites, stop=threading.Event())
    wall, cpu = time.monotonic() - started, time.process_time() - cpu
    seconds = [record["seconds"] for record in records(plan.layout.run)]
    result = {
        "sites": count,
        "round_s": statistics.median(seconds),
        "ms_per_site_and_round": 1e3 * statistics.median(seconds) / count,
        "all_s": wall,
        "cpu_s": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(result) + "\n")


def write_site(plan: Plan, name: str, digest: str) -> Path:
    """A site.toml for a trial without enrolment, and the site's cases."""
    folder = plan.layout.site(name)
    (folder / "data").mkdir(parents=True)
    write_cases(folder / "state", digest, name)
    config = {
        "site": name,
        "server": "127.0.0.1:9",
        "data": ["data"],
        "state": "state",
        "study": str(plan.layout.study),
        "unsigned_trial": True,
        "threads": 1,
        "tls": {"ca": "none", "certificate": "none", "private_key": "none"},
    }
    path = plan.layout.site_config(name)
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
