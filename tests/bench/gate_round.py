"""What the gate adds to a real round of a 62 M-parameter model: with and without it, in one run.

Three sites, their server and mutual TLS as in ``performance``. Either the recipe adds noise and trains
nothing, so that a round is as short as it can be and the share of the gate as large; or every site
takes a step or a few of that network, fewer than any study would. In every other round the couriers
have no gate and no ledger (``inject/gateless``). The first round warms up and does not count; of the
others neighbours are compared, so what else the machine does falls on both.
"""

import statistics
from pathlib import Path
from typing import Any

import models
import studies
from plan import Plan


def measure(out: Path, pairs: int, *, steps: int, patch: int = 64) -> dict[str, Any]:
    """Wall and processor seconds of the rounds of one study.

    Args:
        out: A new folder.
        pairs: Rounds with the gate; there are as many without.
        steps: Of training at each site in each round; 0 for noise.
        patch: Edge of the cube that each step learns from, in voxels.
    """
    shapes = models.swin_unetr(out.with_name("swin-unetr.json"))
    stage = {"exchange": {"encoding": "fp32"}}
    plan = Plan(out=out, shapes=shapes, sites=3, rounds=2 * pairs + 1, stage=stage)
    training = {"training": {"steps": steps, "patch": patch}} if steps else {}
    found = studies.measure(
        "gate",
        plan,
        timeout_s=300.0 + (150.0 + 120.0 * steps) * pairs,
        hooks={"gate": "alternate", **training},
    )
    told = compared(found.wall_s, found.cpu_s, found.cpu_by_process)
    return {"steps": steps, "patch": patch if steps else None, **told}


def compared(
    wall_s: list[float], cpu_s: list[float], by_process: list[dict[str, float]]
) -> dict[str, Any]:
    """Rounds with and without; list index 0 is round 1, which warms up.

    Args:
        wall_s: Of each round, in seconds.
        cpu_s: Of all processes together, of each round, in seconds.
        by_process: Process -> processor seconds, of each round.
    """
    couriers = [
        sum(spent for name, spent in one.items() if name.endswith("courier")) for one in by_process
    ]
    rows = {"wall_s": wall_s, "cpu_s": cpu_s, "couriers_cpu_s": couriers}
    told: dict[str, Any] = {"rounds_each": len(wall_s) // 2}
    for name, values in rows.items():
        on, off = values[1::2], values[2::2]
        told[name] = {
            "with": round(statistics.median(on), 3),
            "without": round(statistics.median(off), 3),
            "ratio": round(sum(on) / sum(off), 4),
            "ratios": [round(a / b, 3) for a, b in zip(on, off, strict=True)],
        }
    return told
