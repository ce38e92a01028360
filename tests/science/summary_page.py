"""The page of claims, its JSON and its pictures, from the results that were kept. Pure."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import charts  # beside this file, which is no package
from charts import Words
from gates import CLAIMS, FAMILIES, KEPT, POINTS, SCANS, Claim
from verdicts import COLLAPSED, FEWEST, LEVEL, Verdict, chance, confidence, judge, together
from why_questions import section

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Family -> seed -> what ``families`` found."""

RULE = f"""A claim passes when the whole interval of every gate lies on that gate's side, fails when
the whole interval of one lies on the other, and is inconclusive else. Fewer than {FEWEST} seeds: not run,
which is never a pass. The interval is a bootstrap of the median ratio over seeds, {LEVEL:.0%}, drawn from
a fixed seed; both arms of a ratio saw the same patients in the same order. With a ratio above
{COLLAPSED:g} in any seed, whose baseline learned next to nothing, a gate is inconclusive. The rule, the
sizes and the seeds were fixed before the run, and one rule was added when the first seed was in, which can
only take a verdict away: with a ratio of two areas under the curve in any seed, neither of which is as
high as chance gets in one of twenty draws ({chance(SCANS):.2f} with {SCANS} scans), a gate is inconclusive,
for two extractors that tell nothing are on par whatever they are."""
PREFACE = """Written by `make science`, on one machine, on synthetic patients, in one run that may have
been broken off and gone on with: whether what five papers claim holds for this implementation at this
size. It says nothing about real hearts."""
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
    designs: Mapping[str, str],
) -> str:
    """Markdown.

    Args:
        claims: As ``judged`` gives them.
        results: For the scores behind them.
        pictures: File names beside the page.
        why: Experiments on claims that fail.
        designs: Family -> how its comparison was made.
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
        parts += [f"## {title}", designs[family], _scores_table(results.get(family, {}))]
    parts.append(NOTES)
    return "\n\n".join(parts) + "\n"


def _worth(seeds: int) -> str:
    """What the interval of so many seeds is worth."""
    if not seeds:
        return "Not every family was run."
    return (
        f"{seeds} seeds: their smallest and largest ratio hold the median of all seeds in "
        f"{confidence(seeds):.0%} of runs. With three, the interval is no more than that span, and "
        f"calling it {LEVEL:.0%} would be too good; every seed's ratio is in the table."
    )


def pictures(results: Results) -> dict[str, str]:
    """File name -> SVG; those whose arms were run."""
    drawn = {"science-claims.svg": charts.forest(CLAIMED, _held(results))}
    if found := _curves(results, "diffusion"):
        labels = _spreads([one["labels"] for one in found])
        drawn["science-labels.svg"] = charts.lines(LABELS, labels)
        turned = [_turned(one["timesteps"]) for one in found]
        drawn["science-timesteps.svg"] = charts.lines(TIMESTEPS, _spreads(turned))
    if found := _curves(results, "prompt"):
        cost = {arm: [tuple(one["cost"][arm]) for one in found] for arm in found[0]["cost"]}
        drawn["science-bytes.svg"] = charts.scatter(SENT, cost)
        left_out = _spreads([one["left out"] for one in found])
        drawn["science-left-out.svg"] = charts.bars(LEFT_OUT, left_out)
    if found := _curves(results, "spine"):
        errors = [
            {
                place: {arm: one["sites"][arm][place]["error_mm"] for arm in SHOWN}
                for place in one["sites"][SHOWN[0]]
            }
            for one in found
        ]
        drawn["science-sites.svg"] = charts.bars(SITES, _spreads(errors))
    return drawn


SHOWN = ("teach-landmarks", "student, true labels", "student", "CNN, pseudo-labels")
"""Arms of the spine whose points are drawn hospital by hospital."""
DOTS = "Dots are seeds"
CLAIMED = Words(
    "Claims beside their gates",
    "The ratio over its bound, turned where less is better. Diamond: median; bar: interval; dots: seeds.",
    "",
    "ratio to the bound",
)
LABELS = Words(
    "Few labels on a model that has seen many scans",
    f"Pretrained on unlabelled slices, or from scratch. Higher is better. {DOTS}, lines their medians.",
    "Dice of new patients",
    "labelled slices, share of the unlabelled ones",
)
TIMESTEPS = Words(
    "How much noise to add before features are read",
    f"1 % of slices labelled. Higher is better. {DOTS}, lines their medians.",
    "Dice of further patients",
    "timestep of the diffusion model",
)
SENT = Words(
    "What a new label costs on the wire",
    f"Every arm learned from the same few labels. Up and left is better. {DOTS}, diamonds their medians.",
    "Dice at the hospital left out",
    "bytes one hospital sends in a round",
)
LEFT_OUT = Words(
    "Each hospital left out once",
    f"A label learned at three hospitals, scored at the fourth. Higher is better. {DOTS}.",
    "Dice at the hospital left out",
    "hospital left out",
)
SITES = Words(
    "Points, hospital by hospital",
    f"`unseen` took no part in training. Lower is better. {DOTS}, bars their medians.".replace(
        "`", ""
    ),
    "median error in mm, a missed point at its most",
    "hospital",
)


def _curves(results: Results, family: str) -> list[Any]:
    return [one["curves"] for _, one in sorted(results.get(family, {}).items())]


def _held(results: Results) -> list[charts.Held]:
    """Every gate with an interval around a ratio, turned so that more is better."""
    rows = []
    for claim in judged(results):
        for one in claim["gates"]:
            gate = one["gate"]
            if not one["interval"] or not gate["value"] or min(one["ratios"]) <= 0:
                continue
            turned = gate["side"] in {"<", "<="}

            def beside(value: float, bound: float = gate["value"], less: bool = turned) -> float:
                return bound / value if less else value / bound

            low, high = sorted(beside(value) for value in one["interval"])
            name = f"{gate['ratio']} {gate['side']} {gate['value']:g}"
            ratios = [beside(value) for value in one["ratios"]]
            rows.append(charts.Held(name, ratios, (low, high), one["verdict"]))
    return rows


def _claim(claim: Claim, seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    def of(ratio: str) -> list[float]:
        return [_ratio(claim, ratio, seeds[seed]) for seed in sorted(seeds)]

    gates = [(gate, judge(gate, of(gate.ratio))) for gate in claim.gates]
    return {
        "claim": claim.name,
        "says": claim.says,
        "published": claim.published,
        "aim": claim.aim,
        "verdict": together([one.verdict for _, one in gates]) if gates else None,
        "gates": [{**asdict(one), "ratios": _told(of(gate.ratio))} for gate, one in gates],
        "beside": {name: _told(of(name)) for name in claim.beside},
        "seeds": sorted(seeds),
    }


def _ratio(claim: Claim, name: str, found: Mapping[str, Any]) -> float:
    """A seed's ratio; no number where it compares two areas neither of which is told from chance."""
    if name == POINTS:
        sites = found["curves"]["sites"]
        ours, pooled = (sites[arm]["unseen"]["error_mm"] for arm in ("student", "student, pooled"))
        return float(pooled / ours)
    scores = {one["arm"]: one["score"] for one in found["scores"] if one["score"] is not None}
    if name == KEPT:
        ours, full = (
            scores[f"{arm}, unseen"] / max(scores[f"{arm}, seen"], 1e-6)
            for arm in ("MoVL", "full fine-tuning")
        )
        return float(ours / max(full, 1e-6))
    if name in claim.areas and max(scores[arm] for arm in claim.areas[name]) < chance(SCANS):
        return math.nan
    return float(found["ratios"][name])


def _told(ratios: Sequence[float]) -> list[float | None]:
    """As JSON has them, which knows no other number than a finite one."""
    return [ratio if math.isfinite(ratio) else None for ratio in ratios]


def _claims_table(claims: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| claim | ratio, gate | median | interval | every seed | verdict | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        verdict = claim["verdict"] or "no gate"
        said = f"{claim['says']}{', aim ' + claim['aim'] if claim['aim'] else ''}"
        lines.append(
            f"| **{claim['claim']}** {said} | | | | | **{verdict}** | {claim['published']} |"
        )
        for one in claim["gates"]:
            gate = one["gate"]
            low, high = one["interval"] or (None, None)
            bound, middle = f"{gate['ratio']} {gate['side']} {gate['value']:g}", one["median"]
            span = "-" if low is None else f"{low:.3f} to {high:.3f}"
            lines.append(
                f"| | {bound} | {_said(middle)} | {span} | {_all(one['ratios'])} | "
                f"{one['verdict']} | |"
            )
        for name, ratios in claim["beside"].items():
            known = [ratio for ratio in ratios if ratio is not None]
            middle = median(known) if known else None
            lines.append(f"| | {name} | {_said(middle)} | | {_all(ratios)} | | |")
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


def _all(values: Sequence[float | None]) -> str:
    return ", ".join(_said(value) for value in values) or "-"


__all__ = ["counts", "judged", "last_line", "page", "pictures"]
