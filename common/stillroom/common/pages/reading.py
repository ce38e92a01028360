"""Questions the report asks of a summary. Pure; absent optional keys are answered, not raised."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Summary = Mapping[str, Any]

TROUBLE = ("refused", "failed", "late")
"""Outcomes in which a site was asked and its work does not count."""

_EVAL = re.compile(r"eval\.([^.]+)\.([^.]+)\.(dice|detected)")


@dataclass(frozen=True, slots=True)
class Gap:
    """One site whose work is missing from one round."""

    stage: str
    round: int
    site: str
    status: str
    reason: str


def stages(summary: Summary) -> list[dict[str, Any]]:
    """Stages in order."""
    return list(summary.get("stages") or [])


def rounds(summary: Summary) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every (stage, round) in order."""
    for stage in stages(summary):
        for record in stage.get("rounds") or []:
            yield stage, record


def site_names(summary: Summary) -> list[str]:
    """Every site the summary speaks of: those enrolled first, then any that only took part."""
    names = [str(site["name"]) for site in summary.get("sites") or []]
    for _, record in rounds(summary):
        names += [name for name in record.get("sites") or {} if name not in names]
    names += [n for n in summary.get("metrics") or {} if n not in names and n != "pooled"]
    return names


def held_out(summary: Summary) -> list[str]:
    """Sites that train nothing."""
    return [
        str(site["name"]) for site in summary.get("sites") or [] if site.get("role") == "held_out"
    ]


def gaps(summary: Summary) -> list[Gap]:
    """Every site that was asked and whose work does not count."""
    return [
        Gap(
            str(stage.get("name", "")),
            int(record.get("round", 0)),
            site,
            str(entry.get("status")),
            str(entry.get("reason") or "no reason recorded"),
        )
        for stage, record in rounds(summary)
        for site, entry in (record.get("sites") or {}).items()
        if entry.get("status") in TROUBLE
    ]


def absent_sites(summary: Summary) -> list[str]:
    """Training sites whose work counts in no round at all."""
    counted = {
        site
        for _, record in rounds(summary)
        for site, entry in (record.get("sites") or {}).items()
        if entry.get("status") == "admitted"
    }
    return [
        name
        for name in site_names(summary)
        if name not in counted and name not in held_out(summary)
    ]


def is_partial(summary: Summary) -> bool:
    """True when any site that should have counted did not."""
    return bool(
        gaps(summary) or absent_sites(summary) or summary.get("complete_participation") is False
    )


def traffic(summary: Summary, site: str) -> tuple[int, int] | None:
    """(up, down) bytes of tensors over all rounds; None when the site was in no round."""
    entries = [
        record["sites"][site]
        for _, record in rounds(summary)
        if site in (record.get("sites") or {})
    ]
    if not entries:
        return None
    up, down = (sum(int(e.get(key) or 0) for e in entries) for key in ("bytes_up", "bytes_down"))
    return up, down


def total_bytes(summary: Summary) -> int:
    """Tensors in both directions, all sites, all rounds."""
    both = (traffic(summary, site) for site in site_names(summary))
    return sum(sum(pair) for pair in both if pair is not None)


Curve = list[tuple[int, float]]
"""(round, value), in order of rounds."""


def loss_curves(stage: Mapping[str, Any]) -> dict[str, Curve]:
    """Training loss by site."""
    curves: dict[str, Curve] = {}
    for record in stage.get("rounds") or []:
        for site, entry in (record.get("sites") or {}).items():
            value = (entry.get("metrics") or {}).get("train.loss")
            if value is not None and entry.get("status") == "admitted":
                curves.setdefault(site, []).append((int(record["round"]), float(value)))
    return curves


def score_curves(
    summary: Summary, stage: Mapping[str, Any]
) -> dict[tuple[str, str], dict[str, Curve]]:
    """Scores of evaluated rounds: (label, ``dice`` or ``detected``) -> site -> curve.

    The mean over the label's classes: Dice where there is one, else the detection rate. The
    student's curves end with its final result, which is scored after the last round.
    """
    curves: dict[tuple[str, str], dict[str, Curve]] = {}
    number = 0
    for record in stage.get("rounds") or []:
        number = int(record["round"])
        sources = {s: e.get("metrics") or {} for s, e in (record.get("sites") or {}).items()}
        for site, scores in (record.get("evaluation") or {}).items():
            sources[site] = {**sources.get(site, {}), **scores}
        for site, scores in sources.items():
            for key, value in _label_means(scores).items():
                curve = curves.setdefault(key, {}).setdefault(site, [])
                curve.append((number, value))
    if stage is not student_stage(summary):
        return curves
    for (label, what), by_site in curves.items():
        for site, curve in by_site.items():
            table = ((summary.get("metrics") or {}).get(site) or {}).get(label) or {}
            final = table.get("mean_dice" if what == "dice" else "detection_rate")
            if final is not None and curve[-1][0] < number:
                curve.append((number, float(final)))
    return curves


def student_stage(summary: Summary) -> Mapping[str, Any] | None:
    """The stage whose model is released; None in a study without one."""
    name = (summary.get("student") or {}).get("stage")
    return next((s for s in stages(summary) if s.get("name") == name), None)


def _label_means(scores: Mapping[str, float]) -> dict[tuple[str, str], float]:
    values: dict[str, dict[str, list[float]]] = {}
    for name, value in scores.items():
        match = _EVAL.fullmatch(name)
        if match:
            values.setdefault(match[1], {}).setdefault(match[3], []).append(float(value))
    chosen = {(label, "dice" if "dice" in k else "detected"): k for label, k in values.items()}
    return {key: sum(kinds[key[1]]) / len(kinds[key[1]]) for key, kinds in chosen.items()}


def starts(summary: Summary) -> list[list[tuple[float, float]]]:
    """(start, length) in seconds of every round, by stage, on one clock.

    Rounds record how long they took, not when they began. Consecutive ``teach`` stages run side
    by side and close each round together, so the clock moves by the longest of them.
    """
    result: list[list[tuple[float, float]]] = []
    clock = 0.0
    wave: list[list[float]] = []
    listed = stages(summary)
    for index, stage in enumerate(listed):
        wave.append([float(r.get("seconds") or 0) for r in stage.get("rounds") or []])
        is_teach = stage.get("recipe") == "teach"
        following = listed[index + 1] if index + 1 < len(listed) else {}
        if is_teach and following.get("recipe") == "teach":
            continue
        longest = max(map(len, wave))
        steps = [max(s[n] for s in wave if n < len(s)) for n in range(longest)]
        begins = [clock + sum(steps[:n]) for n in range(longest)]
        result += [list(zip(begins, seconds, strict=False)) for seconds in wave]
        clock += sum(steps)
        wave = []
    return result
