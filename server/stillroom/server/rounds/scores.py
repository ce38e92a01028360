"""From the numbers sites report to tables people read. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from stillroom.common.study import Label, Study

Scores = Mapping[str, float]
"""One site's ``eval.*`` metrics."""


def tabulate(study: Study, by_site: Mapping[str, Scores], pool: Iterable[str]) -> dict[str, Any]:
    """Scores as ``{site: {label: {...}}}`` with the sites of ``pool`` together as ``pooled``.

    A label has ``cases``, ``classes`` and ``detection_rate``; masks add ``mean_dice``, points
    ``median_error_mm``, whole scans ``mean_auc`` and ``accuracy`` instead of a rate. A point nobody
    found has no error but lowers the detection rate: a miss is a failure, never a gap in the table.

    Args:
        study: For labels and classes.
        by_site: What each site reported.
        pool: Sites scored together, each class weighted by its number of cases.
    """
    tables = {site: _table(study, [scores]) for site, scores in sorted(by_site.items())}
    pooled = _table(study, [by_site[site] for site in sorted(pool) if site in by_site])
    return {**tables, **({"pooled": pooled} if pooled else {})}


def _table(study: Study, scores: list[Scores]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, label in study.label.items():
        classes = {}
        for item in label.classes:
            row = _row(f"eval.{name}.{item}.", scores)
            if row:
                classes[item] = row
        if classes:
            table[name] = _summary(label, classes)
    return table


def _row(prefix: str, scores: list[Scores]) -> dict[str, float]:
    """One class over several sites: case-weighted means; errors as a weighted median."""
    rows = [
        {key.removeprefix(prefix): value for key, value in site.items() if key.startswith(prefix)}
        for site in scores
    ]
    rows = [row for row in rows if row.get("cases")]
    if not rows:
        return {}
    cases = sum(row["cases"] for row in rows)
    result: dict[str, float] = {"cases": cases}
    for what in ("dice", "detected", "found", "auc", "accuracy"):
        if any(what in row for row in rows):
            result[what] = sum(row.get(what, 0.0) * row["cases"] for row in rows) / cases
    errors = [
        (row["error_mm"], row["cases"] * row.get("found", 1.0)) for row in rows if "error_mm" in row
    ]
    if errors:
        result["error_mm"] = weighted_median(errors)
    return {key: round(value, 4) for key, value in result.items()}


def _summary(label: Label, classes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    rows = list(classes.values())
    summary: dict[str, Any] = {
        "cases": max(row["cases"] for row in rows),
        "classes": dict(classes),
    }
    if label.kind == "bag":
        for name, what in (("mean_auc", "auc"), ("accuracy", "accuracy")):
            values = [row[what] for row in rows if what in row]
            summary[name] = round(sum(values) / len(values), 4) if values else None
        return summary
    summary |= {
        "detection_rate": round(sum(row.get("detected", 0.0) for row in rows) / len(rows), 4),
    }
    if label.kind == "mask":
        summary["mean_dice"] = round(sum(row.get("dice", 0.0) for row in rows) / len(rows), 4)
    else:
        errors = [(row["error_mm"], row["cases"]) for row in rows if "error_mm" in row]
        summary["median_error_mm"] = round(weighted_median(errors), 4) if errors else None
    return summary


def weighted_median(pairs: list[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached.

    Sites report a median each; this is the median of medians weighted by cases, which is not
    the median of all cases. With one held-out site the two are the same.
    """
    half, reached = sum(weight for _, weight in pairs) / 2, 0.0
    for value, weight in sorted(pairs):
        reached += weight
        if reached >= half:
            return value
    return sorted(pairs)[-1][0]
