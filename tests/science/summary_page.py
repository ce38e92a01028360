"""The page of claims, its JSON and its pictures, from the results that were kept. Pure."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import charts  # beside this file, which is no package
from gates import CLAIMS, FAMILIES, Claim
from verdicts import COLLAPSED, FEWEST, LEVEL, Verdict, confidence, judge, together
from why_questions import section

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Family -> seed -> what ``families`` found."""

RULE = f"""A claim passes when the whole interval of every gate lies on that gate's side, fails when
the whole interval of one lies on the other, and is inconclusive else. Fewer than {FEWEST} seeds: not run,
which is never a pass. The interval is a bootstrap of the median ratio over seeds, {LEVEL:.0%}, drawn from
a fixed seed; both arms of a ratio saw the same patients in the same order. With a ratio above
{COLLAPSED:g} in any seed, whose baseline learned next to nothing, a gate is inconclusive. The rule, the
sizes and the seeds were fixed before the run."""
PREFACE = """Written by `make science`, from one run on one machine, on synthetic patients: whether what five
papers claim holds for this implementation at this size. It says nothing about real hearts."""
NOTES = """Bytes are of one site's update in one round, as 32-bit floats; a dash where the arms are not
federated. The worst site is the worst of all that were scored and of all seeds; a dash where sites are
not told apart."""


def judged(results: Results) -> list[dict[str, Any]]:
    """Every claim with its gates, figures of every seed, and verdict (None where there is no gate)."""
    return [_claim(claim, results.get(claim.family, {})) for claim in CLAIMS]


def counts(claims: Sequence[Mapping[str, Any]]) -> dict[Verdict, int]:
    """How many claims with gates got each verdict."""
    found: dict[Verdict, int] = {"PASS": 0, "INCONCLUSIVE": 0, "FAIL": 0, "not run": 0}
    for claim in claims:
        if claim["verdict"] is not None:
            found[claim["verdict"]] += 1
    return found


def last_line(claims: Sequence[Mapping[str, Any]]) -> str:
    """What a run ends with; claims that were not run are in none of its numbers."""
    n = counts(claims)
    return f"claims: {n['PASS']} pass, {n['INCONCLUSIVE']} inconclusive, {n['FAIL']} fail"


def page(
    claims: Sequence[Mapping[str, Any]],
    results: Results,
    pictures: Sequence[str],
    why: Results,
) -> str:
    """Markdown.

    Args:
        claims: As ``judged`` gives them.
        results: For the scores behind them.
        pictures: File names beside the page.
        why: Experiments on claims that fail.
    """
    seeds = min((len(one) for one in results.values()), default=0)
    parts = [
        "# Which claims hold here",
        PREFACE,
        RULE,
        _worth(seeds),
        last_line(claims) + ".",
        _claims_table(claims),
        *(f"![{name.removesuffix('.svg')}]({name})" for name in pictures),
    ]
    parts += section(why)
    for family, title in FAMILIES.items():
        parts += [f"## {title}", _scores_table(results.get(family, {}))]
    parts.append(NOTES)
    return "\n\n".join(parts) + "\n"


def _worth(seeds: int) -> str:
    """What the interval of so many seeds is worth."""
    return (
        f"{seeds} seeds: their smallest and largest ratio hold the median of all seeds in "
        f"{confidence(seeds):.0%} of runs. With three, the interval is no more than that span, and "
        f"calling it {LEVEL:.0%} would be too good; every seed's ratio is in the table."
    )


def pictures(results: Results) -> dict[str, str]:
    """File name -> SVG; those whose arms were run."""
    drawn = {}
    if found := [one["curves"] for one in results.get("diffusion", {}).values()]:
        drawn["science-labels.svg"] = charts.lines(
            "Few labels on a diffusion model", "Dice", _spreads([one["labels"] for one in found])
        )
        turned = [_turned(one["timesteps"]) for one in found]
        drawn["science-timesteps.svg"] = charts.lines(
            "Timestep at which features are read, 1 % labelled", "Dice", _spreads(turned)
        )
    if found := [one["curves"] for one in results.get("prompt", {}).values()]:
        drawn["science-left-out.svg"] = charts.bars(
            "Scores at each hospital, left out",
            "Dice",
            _spreads([one["left out"] for one in found]),
        )
        arms = found[0]["cost"]
        drawn["science-bytes.svg"] = charts.scatter(
            "Unseen hospital over bytes sent per round",
            "Dice",
            {arm: [tuple(one["cost"][arm]) for one in found] for arm in arms},
        )
    if found := [one["curves"]["sites"] for one in results.get("spine", {}).values()]:
        arms = ("teach-landmarks", "student, true labels", "student", "CNN, pseudo-labels")
        errors = [
            {place: {arm: one[arm][place]["error_mm"] for arm in arms} for place in one[arms[0]]}
            for one in found
        ]
        drawn["science-sites.svg"] = charts.bars(
            "Points by hospital", "median error in mm, a missed point at its most", _spreads(errors)
        )
    return drawn


def _claim(claim: Claim, seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    def of(ratio: str) -> list[float]:
        return [float(seeds[seed]["ratios"][ratio]) for seed in sorted(seeds)]

    gates = [(gate, judge(gate, of(gate.ratio))) for gate in claim.gates]
    return {
        "claim": claim.name,
        "says": claim.says,
        "published": claim.published,
        "aim": claim.aim,
        "verdict": together([one.verdict for _, one in gates]) if gates else None,
        "gates": [{**asdict(one), "ratios": of(gate.ratio)} for gate, one in gates],
        "beside": {name: of(name) for name in claim.beside},
        "seeds": sorted(seeds),
    }


def _claims_table(claims: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| claim | verdict | gate | median | interval | every seed | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        verdict = claim["verdict"] or "no gate"
        said = f"{claim['says']}{', aim ' + claim['aim'] if claim['aim'] else ''}"
        lines.append(
            f"| **{claim['claim']}** {said} | **{verdict}** | | | | | {claim['published']} |"
        )
        for one in claim["gates"]:
            gate = one["gate"]
            low, high = one["interval"] or (None, None)
            bound, middle = f"{gate['side']} {gate['value']:g}", _said(one["median"])
            span = "-" if low is None else f"{low:.3f} to {high:.3f}"
            lines.append(
                f"| {gate['ratio']} | {one['verdict']} | {bound} | {middle} | {span} | "
                f"{_all(one['ratios'])} | |"
            )
        for name, ratios in claim["beside"].items():
            middle = median(ratios) if ratios else None
            lines.append(f"| {name} | | | {_said(middle)} | | {_all(ratios)} | |")
    return "\n".join(lines)


def _scores_table(seeds: Mapping[int, Mapping[str, Any]]) -> str:
    if not seeds:
        return "Not run."
    names = sorted(seeds)
    heads = " | ".join(f"seed {seed}" for seed in names)
    lines = [f"| arm | in | {heads} | worst site | kB up |", "|---" * (4 + len(names)) + "|"]
    for number, first in enumerate(seeds[names[0]]["scores"]):
        rows = [seeds[seed]["scores"][number] for seed in names]
        worst = [one["worst"] for one in rows if one["worst"] is not None]
        last = max(worst) if first["unit"] == "mm" and worst else min(worst, default=None)
        sent = "-" if first["bytes"] is None else f"{first['bytes'] / 1e3:.1f}"
        scores = " | ".join(_said(one["score"]) for one in rows)
        lines.append(f"| {first['arm']} | {first['unit']} | {scores} | {_said(last)} | {sent} |")
    return "\n".join(lines)


def _spreads(
    found: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, list[float]]]:
    return {a: {b: [one[a][b] for one in found] for b in found[0][a]} for a in found[0]}


def _turned(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    arms = next(iter(table.values()))
    return {arm: {place: row[arm] for place, row in table.items()} for arm in arms}


def _said(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _all(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values) or "-"


__all__ = ["counts", "judged", "last_line", "page", "pictures"]
