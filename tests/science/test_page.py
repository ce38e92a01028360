"""The page of claims from made-up figures: what it says, and what it draws."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

HERE = Path(__file__).parent
SEEDS = (11, 12, 13)


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    """``summary_page``, whose neighbours are no package."""
    sys.path.insert(0, str(HERE))
    import summary_page

    yield summary_page
    sys.path.remove(str(HERE))


def results(*, area: float = 0.8) -> dict[str, dict[int, Any]]:
    """Figures of every family in the form that ``families`` gives them; all claims hold a little."""
    return {
        family: {seed: make(np.random.default_rng(seed), area) for seed in SEEDS}
        for family, make in MADE.items()
    }


def near(rng: np.random.Generator, value: float) -> float:
    return float(value * np.exp(rng.normal(0, 0.03)))


def row(arm: str, score: float, unit: str, sent: int | None = None) -> dict[str, Any]:
    return {"arm": arm, "score": score, "unit": unit, "bytes": sent, "worst": None}


def spine(rng: np.random.Generator, _: float) -> dict[str, Any]:
    arms = {
        "teach-landmarks": 9.0,
        "student, true labels": 20.0,
        "student": 9.0,
        "CNN, pseudo-labels": 9.5,
        "student, pooled": 8.5,
    }
    sites = {
        arm: {
            place: {"error_mm": near(rng, error), "detected": 0.9, "dice": 0.7}
            for place in ("unseen", "north", "river", "harbour")
        }
        for arm, error in arms.items()
    }
    ratios = {"F1": 0.6, "F2": 1.0, "F3": 0.7, "F4": 1.0, "F5": 1.2, "F over CNN": 1.0}
    scores = [row(arm, error, "mm", 400_000) for arm, error in arms.items()]
    return {
        "ratios": {n: near(rng, r) for n, r in ratios.items()},
        "scores": scores,
        "curves": {"sites": sites},
    }


def contrast(rng: np.random.Generator, _: float) -> dict[str, Any]:
    names = (
        "M1 S1",
        "M1 S2",
        "M2",
        "M3 encoder over the next",
        "M3 InfoNCE over MSE",
        "M3 images over cells",
    )
    return {
        "ratios": {n: near(rng, 1.2) for n in names},
        "scores": [row("S1", 0.8, "Dice")],
        "curves": {},
    }


def context(rng: np.random.Generator, area: float) -> dict[str, Any]:
    arms = {"adapted": area, "unadapted": area - 0.05, "teacher": area}
    ratios = {"C1": 1.06, "C2": 1.0, "C adapted over scratch": 1.0}
    scores = [row(arm, near(rng, value), "AUC") for arm, value in arms.items()]
    return {"ratios": ratios, "scores": scores, "curves": {}}


def diffusion(rng: np.random.Generator, _: float) -> dict[str, Any]:
    arms = (
        "decoder, pretrained",
        "linear, pretrained",
        "all, pretrained",
        "all, scratch",
        "linear, scratch",
    )
    ks = {"4 slices": 0.3, "1 %": 0.45, "10 %": 0.6}
    labels = {
        arm: {k: near(rng, v * (1 - 0.1 * n)) for k, v in ks.items()} for n, arm in enumerate(arms)
    }
    timesteps = {
        str(t): {arm: near(rng, 0.5 - t / 1000) for arm in arms[:2]}
        for t in (0, 25, 50, 100, 150, 250)
    }
    names = (
        "D1 4 slices",
        "D1 1 %",
        "D1 10 %",
        "D1 shrinks",
        "D1 narrows",
        "D2 1 % / 10 %",
        "D2 few / 10 %",
        "D3 gain",
    )
    scores = [row(f"{arm}, {k}", v, "Dice", 3_000) for arm in arms for k, v in ks.items()]
    curves = {"labels": labels, "timesteps": timesteps}
    return {"ratios": {n: near(rng, 1.3) for n in names}, "scores": scores, "curves": curves}


def prompt(rng: np.random.Generator, _: float) -> dict[str, Any]:
    sent = {
        "full fine-tuning": 468_000, "probe alone": 204, "MoVL": 7_372,
        "MoVL, no discrepancy": 7_372, "prompt, random map": 7_168,
    }  # fmt: skip
    cost = {arm: [size, near(rng, 0.2 + 0.1 * np.log10(size))] for arm, size in sent.items()}
    left_out = {
        site: {arm: near(rng, cost[arm][1]) for arm in ("full fine-tuning", "probe alone", "MoVL")}
        for site in ("north", "river", "harbour", "summit")
    }
    ratios = {"V1": 0.8, "V2": 0.7, "V3 seen": 1.02, "V3 unseen": 1.0, "V bytes": 0.016}
    places = {"seen": 0.6, "unseen": 0.5}
    scores = [
        row(f"{arm}, {place}", score, "Dice", size)
        for arm, size in sent.items()
        for place, score in places.items()
    ]
    curves = {"cost": cost, "left out": left_out}
    return {
        "ratios": {n: near(rng, r) for n, r in ratios.items()},
        "scores": scores,
        "curves": curves,
    }


MADE = {
    "spine": spine,
    "contrast": contrast,
    "context": context,
    "diffusion": diffusion,
    "prompt": prompt,
}


def test_every_claim_is_on_the_page(page: ModuleType) -> None:
    """With its verdict, its gates and every seed; the last line counts those that have gates."""
    claims = page.judged(results())
    text = page.page(claims, results(), ["a.svg"], {}, dict.fromkeys(MADE, "How it was made."))

    verdicts = {claim["claim"]: claim["verdict"] for claim in claims}
    assert (verdicts["F1"], verdicts["V1"], verdicts["D2"]) == ("PASS", "FAIL", None)
    assert page.last_line(claims) in text
    assert all(f"**{name}**" in text for name in verdicts)
    assert text.count("How it was made.") == len(MADE)
    assert "F4 points, pooled over federated" in text
    assert "V kept at the unseen hospital, MoVL over full | 1.000 |" in text


def test_areas_at_chance_pass_nothing(page: ModuleType) -> None:
    """Two extractors that tell nothing are on par: that is no claim held."""
    claims = {claim["claim"]: claim for claim in page.judged(results(area=0.5))}

    assert (claims["C1"]["verdict"], claims["C2"]["verdict"]) == ("INCONCLUSIVE", "INCONCLUSIVE")
    assert claims["C1"]["gates"][0]["ratios"] == [None] * len(SEEDS)
    json.dumps(list(claims.values()), allow_nan=False)
    assert "| C1 > 1 | - | - | -, -, - |" in page.page(
        list(claims.values()), results(area=0.5), [], {}, dict.fromkeys(MADE, "")
    )


def test_pictures_are_drawings(page: ModuleType) -> None:
    """Every picture that the page needs, each with a dot for every seed of every arm."""
    drawn = page.pictures(results())

    assert {name.removeprefix("science-").removesuffix(".svg") for name in drawn} == {
        "claims", "labels", "timesteps", "bytes", "left-out", "sites"
    }  # fmt: skip
    dots = {name: picture.count("<circle") for name, picture in drawn.items()}
    for picture in drawn.values():
        ET.fromstring(picture)  # noqa: S314  # Our own, and well-formed.
    assert dots["science-labels.svg"] == 5 * 3 * len(SEEDS)
    assert dots["science-timesteps.svg"] == 2 * 6 * len(SEEDS)
    assert dots["science-bytes.svg"] == 5 * len(SEEDS)
    assert dots["science-sites.svg"] == 4 * 4 * len(SEEDS)


def test_the_page_says_what_was_run(page: ModuleType) -> None:
    """The scans that the rule of chance counts are those of the arms; every family has its design."""
    pytest.importorskip("torch")
    import arms_context
    import designs
    import gates

    assert arms_context.FULL.tested == gates.SCANS
    assert designs.designs().keys() == gates.FAMILIES.keys()


def test_reasons_are_counted_over_seeds(page: ModuleType) -> None:
    """Yes in all seeds, no in none, and in between nothing is claimed."""
    import why_questions

    reason = why_questions.Reason("It is too short", "ratio", "longer", "as it is", 0.02)
    seeds = [{"longer": {"ratio": r}, "as it is": {"ratio": 0.5}} for r in (0.6, 0.7, 0.51)]

    assert why_questions._answer(reason, seeds[:2]).startswith("- **yes**, in 2 of 2 seeds")
    assert why_questions._answer(reason, seeds[2:]).startswith("- **no**, in 0 of 1 seeds")
    assert why_questions._answer(reason, seeds).startswith("- **not told apart**, in 2 of 3 seeds")
