"""Every family of arms on one seed, in one form: ratios, scores and curves.

What is run here at full size was fixed before a published run. Seeds below ten were left to development,
and the figures of a seed are all kept. ``contrast`` is scored on another scanner than its arms were
written with.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import arms_context as context  # beside this file, which is no package
import arms_contrast as contrast
import arms_diffusion as diffusion
import arms_prompt as prompt
import arms_spine as spine

Found = dict[str, Any]
"""``ratios``: name -> number. ``scores``: rows of ``row``. ``curves``: what plots are made of."""

NEEDED = ("full fine-tuning", "probe alone", "MoVL")
"""Arms of the prompt that gates need; the others run with one hospital left out alone."""


def row(
    arm: str,
    score: float | None,
    unit: str,
    *,
    sent: int | None = None,
    worst: float | None = None,
) -> dict[str, Any]:
    """A line of the table of scores.

    Args:
        arm: Its name.
        score: Its figure on patients that it has not seen; None where it predicts none.
        unit: Of the figure.
        sent: Bytes up per site and round, as float32; None where the arm is not federated.
        worst: The worst site's figure; None where sites are not told apart.
    """
    return {"arm": arm, "score": score, "unit": unit, "bytes": sent, "worst": worst}


def of_spine(seed: int, *, quick: bool) -> Found:
    """F1 to F5."""
    found = spine.run(seed, spine.QUICK if quick else spine.Plan())
    scores, sites = [], {}
    for arm, one in found.items():
        places = [one["unseen"], *one["sites"].values()]
        for what, unit, worst in (
            ("error_mm", "mm", max),
            ("detected", "found", min),
            ("dice", "Dice", min),
        ):
            if (score := one["unseen"][what]) is not None:
                worst_of = worst(place[what] for place in places)
                scores.append(row(arm, score, unit, sent=one["bytes"] or None, worst=worst_of))
        sites[arm] = {"unseen": one["unseen"], **one["sites"]}
    return {"ratios": spine.ratios(found), "scores": scores, "curves": {"sites": sites}}


def of_contrast(seed: int, *, quick: bool) -> Found:
    """M1 to M3."""
    plan = contrast.Plan(scanner="river")
    if quick:
        plan = contrast.Plan(4, 2, 2, 4, 3, scanner="river", teacher=(8, 16, 32, 32))
    found = contrast.run(seed, plan)
    ratios = contrast.ratios(found)
    others = [found[f"S1 {term}"]["dice"] for term in contrast.TERMS if term != "encoder"]
    ratios["M3 encoder over the next"] = found["S1 encoder"]["dice"] / max(*others, 1e-6)
    scores = [row(arm, one["dice"], "Dice") for arm, one in found.items()]
    return {"ratios": ratios, "scores": scores, "curves": {}}


def of_context(seed: int, *, quick: bool) -> Found:
    """C1 and C2."""
    with tempfile.TemporaryDirectory() as folder:
        small = replace(context.QUICK, warmed=2, trained=6, tested=6, teacher_steps=6, bag_steps=4)
        sizes = small if quick else context.FULL
        found = context.arms(seed, sizes, Path(folder))
    del found["windows"]
    ratios = {
        "C1": found["adapted"] / max(found["unadapted"], 1e-6),
        "C2": found["adapted"] / max(found["teacher"], 1e-6),
        "C adapted over scratch": found["adapted"] / max(found["scratch"], 1e-6),
    }
    return {
        "ratios": ratios,
        "scores": [row(arm, area, "AUC") for arm, area in found.items()],
        "curves": {},
    }


def of_diffusion(seed: int, *, quick: bool) -> Found:
    """D1 to D3."""
    small = replace(diffusion.QUICK, pool=4, pretrain_steps=10, steps=5)
    found = diffusion.run(seed, small if quick else diffusion.Plan())
    ratios = diffusion.ratios(found)
    few, some, many = (ratios[f"D1 {k}"] for k in found["D1"])
    # The gap is monotone when neither of its two steps grows.
    ratios["D1 narrows"] = min(few - some, some - many)
    scores = [
        row(f"{arm}, {k}", one["dice"], "Dice", sent=found["bytes"][arm])
        for k, arms in found["D1"].items()
        for arm, one in arms.items()
    ]
    labels = {
        arm: {k: arms[arm]["dice"] for k, arms in found["D1"].items()} for arm in diffusion.ARMS
    }
    return {
        "ratios": ratios,
        "scores": scores,
        "curves": {"labels": labels, "timesteps": found["D3"]},
    }


def of_prompt(seed: int, *, quick: bool) -> Found:
    """V1 to V3: every hospital is left out once, and a seed's ratio is the median over them."""
    plan = prompt.Plan(1, 1, 1, 2, 3, 4, 2, 2) if quick else prompt.Plan()
    places = prompt.SITES[-2:] if quick else prompt.SITES
    found = {
        left_out: prompt.run(
            seed, left_out, plan, prompt.ARMS if left_out == places[-1] else NEEDED
        )
        for left_out in places
    }
    each = [prompt.ratios(results) for results in found.values()]
    ratios = {name: median(one[name] for one in each) for name in each[0]}
    ratios["V bytes"] = ratios.pop("bytes")
    scores, sent = [], {}
    for arm in prompt.ARMS:
        here = [results[arm] for results in found.values() if arm in results]
        sent[arm] = here[0]["bytes"]
        for place in ("seen", "unseen"):
            values = [one[place] for one in here]
            name = f"{arm}, {place}" if len(here) > 1 else f"{arm}, {place} (one hospital)"
            scores.append(row(name, fmean(values), "Dice", sent=sent[arm], worst=min(values)))
    one = found[places[-1]]
    cost = {arm: [sent[arm], one[arm]["unseen"]] for arm in prompt.ARMS}
    sites = {
        left_out: {arm: results[arm]["unseen"] for arm in NEEDED}
        for left_out, results in found.items()
    }
    return {"ratios": ratios, "scores": scores, "curves": {"cost": cost, "left out": sites}}


RUNS: dict[str, Callable[..., Found]] = {
    "spine": of_spine,
    "contrast": of_contrast,
    "context": of_context,
    "diffusion": of_diffusion,
    "prompt": of_prompt,
}
