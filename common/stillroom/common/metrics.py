"""The few numbers that may travel beside weights: their names, and the check of them.

Everything a site reports is one of these, for the labels of its study; anything else is refused
on both sides. Counts below the study's minimum cohort leave as 0, and scores over fewer scans than
that do not leave at all: a mean over one scan is that scan's own.
"""

import math
from collections.abc import Mapping

from stillroom.common.errors import ContractError
from stillroom.common.study import Study

COUNTS = frozenset({"cases", "written", "incomplete", "kept", "located", "not_located"})
"""Last part of every metric that counts cases and is therefore suppressed when small."""

RATES = frozenset({"dice", "detected", "found", "auc", "accuracy"})
"""Last part of every metric that lies in [0, 1]."""

SCORES = RATES | {"error_mm"}
"""Last part of every metric that is a mean or median over the scans its ``cases`` counts."""

VOXELS = ("dice", "detected", "found", "error_mm", "cases")
SCORED = {"mask": VOXELS, "points": VOXELS, "bag": ("auc", "accuracy", "cases")}
"""Kind of label -> what is told of each of its classes."""

MOST = 1e9
"""No loss, count, time or distance is larger; a larger one would drown the others in a sum."""


def allowed_metrics(study: Study) -> frozenset[str]:
    """Names of every metric a site may report in ``study``.

    * ``inventory.cases``, ``inventory.unlabelled.cases``, ``inventory.<label>.cases``
    * ``train.loss``, ``train.cases``, ``train.seconds``, ``train.<label>.loss``, and
      ``train.<term>.loss`` of the terms that a recipe of the study declares
    * ``pseudo.<label>.written|incomplete|kept`` (kept: a true label was there already)
    * ``locate.located|not_located``
    * ``eval.cases``, ``eval.<label>.<class>.dice|detected|found|error_mm|cases``, and for labels of
      whole scans ``eval.<label>.<class>.auc|accuracy|cases``
    """
    names = {
        "inventory.cases",
        "inventory.unlabelled.cases",
        "train.loss",
        "train.cases",
        "train.seconds",
        "locate.located",
        "locate.not_located",
        "eval.cases",
    }
    for label, definition in study.label.items():
        names |= {f"inventory.{label}.cases", f"train.{label}.loss"}
        names |= {f"pseudo.{label}.{verdict}" for verdict in ("written", "incomplete", "kept")}
        for item in definition.classes:
            names |= {f"eval.{label}.{item}.{what}" for what in SCORED[definition.kind]}
    for stage in study.stage:
        names |= {f"train.{term}.loss" for term in stage.declared.terms}
    return frozenset(names)


def check_metrics(metrics: Mapping[str, object], study: Study) -> None:
    """Refuse a metric that is not whitelisted or not a number that it could be.

    Rates lie in [0, 1], counts, times and distances are not negative, and nothing exceeds ``MOST``.

    Raises:
        ContractError: STR-304. The message gives how many, never the offending name or value:
            both may have come from a scan.
    """
    allowed = allowed_metrics(study)
    bad = [
        name
        for name, value in metrics.items()
        if name not in allowed
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not _possible(name.rsplit(".", 1)[-1], value)
    ]
    if bad:
        raise ContractError(
            f"{len(bad)} of {len(metrics)} reported numbers are not on the whitelist or impossible.",
            fix="Check that site and server run the same release.",
            code="STR-304",
        )


def _possible(what: str, value: float) -> bool:
    low, high = (0.0, 1.0) if what in RATES else (-MOST if what == "loss" else 0.0, MOST)
    return math.isfinite(value) and low <= value <= high


def suppress_small(metrics: Mapping[str, float], min_cohort: int) -> dict[str, float]:
    """``metrics`` with every count below ``min_cohort`` as 0, and without scores of fewer scans."""
    few = scores_of_few(metrics, min_cohort)
    return {
        name: 0 if name.rsplit(".", 1)[-1] in COUNTS and value < min_cohort else value
        for name, value in metrics.items()
        if name not in few
    }


def scores_of_few(metrics: Mapping[str, float], min_cohort: int) -> frozenset[str]:
    """Names of the scores that were made from fewer than ``min_cohort`` scans. Pure.

    A score is made from the ``cases`` of its class; a distance only from the share ``found`` of
    them. Where these are not told, they are taken to be none.
    """
    few = set()
    for name in metrics:
        of, _, what = name.rpartition(".")
        if what in SCORES:
            scans = metrics.get(f"{of}.cases", 0)
            if what == "error_mm":
                scans = round(scans * metrics.get(f"{of}.found", 0.0))
            if scans < min_cohort:
                few.add(name)
    return frozenset(few)


def check_cohort(metrics: Mapping[str, float], min_cohort: int) -> None:
    """Refuse numbers that ``suppress_small`` would not have let through.

    Args:
        metrics: As ``check_metrics`` accepts them.
        min_cohort: The study's.

    Raises:
        ContractError: STR-304.
    """
    left = suppress_small(metrics, min_cohort)
    if bad := sum(left.get(name) != value for name, value in metrics.items()):
        raise ContractError(
            f"{bad} of {len(metrics)} reported numbers count fewer cases than the study's minimum "
            f"cohort of {min_cohort}, or are scores of fewer.",
            fix="Check that site and server run the same release.",
            code="STR-304",
        )
