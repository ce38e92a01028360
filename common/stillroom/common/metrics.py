"""The few numbers that may travel beside weights: their names, and the check of them.

Everything a site reports is one of these, for the labels of its study; anything else is refused
on both sides. Counts below the study's minimum cohort leave as 0.
"""

import math
from collections.abc import Mapping

from stillroom.common.errors import ContractError
from stillroom.common.study import Study

COUNTS = frozenset({"cases", "written", "incomplete", "kept", "located", "not_located"})
"""Last part of every metric that counts cases and is therefore suppressed when small."""

RATES = frozenset({"dice", "detected", "found"})
"""Last part of every metric that lies in [0, 1]."""

MOST = 1e9
"""No loss, count, time or distance is larger; a larger one would drown the others in a sum."""


def allowed_metrics(study: Study) -> frozenset[str]:
    """Names of every metric a site may report in ``study``.

    * ``inventory.cases``, ``inventory.unlabelled.cases``, ``inventory.<label>.cases``
    * ``train.loss``, ``train.cases``, ``train.seconds``, ``train.<label>.loss``
    * ``pseudo.<label>.written|incomplete|kept`` (kept: a true label was there already)
    * ``locate.located|not_located``
    * ``eval.cases``, ``eval.<label>.<class>.dice|detected|found|error_mm|cases``
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
            names |= {
                f"eval.{label}.{item}.{what}"
                for what in ("dice", "detected", "found", "error_mm", "cases")
            }
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
    """``metrics`` with every count below ``min_cohort`` replaced by 0."""
    return {
        name: 0 if name.rsplit(".", 1)[-1] in COUNTS and value < min_cohort else value
        for name, value in metrics.items()
    }
