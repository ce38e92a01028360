"""When a claim holds: ratios of several seeds, an interval around their median, and a rule. Pure.

The rule was written before any seed of a published run was started. A ratio is between two arms of one
seed, which saw the same patients in the same order; seeds are drawn anew, ratios stay whole, so pairs
are never broken. An interval from three seeds is no more than their smallest and largest ratio:
``confidence`` says what such a span is worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

Verdict = Literal["PASS", "INCONCLUSIVE", "FAIL", "not run"]
Side = Literal[">", ">=", "<", "<="]

FEWEST = 3
"""Seeds below which nothing passes or fails."""
COLLAPSED = 20.0
"""A larger ratio has next to nothing below its line: a baseline that learned nothing is no rival."""
ONE_OF_TWENTY = 1.645
"""Standard deviations above the mean that a normal number exceeds so often."""
DRAWS = 10_000
LEVEL = 0.95
ORDER: tuple[Verdict, ...] = ("not run", "FAIL", "INCONCLUSIVE", "PASS")
"""A claim of several gates is as good as the first of these that one of them got."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One number to be held.

    Attributes:
        ratio: Its name among a seed's ratios.
        side: Where of ``value`` it has to lie.
        value: The bound.
    """

    ratio: str
    side: Side
    value: float

    def admits(self, number: float) -> bool:
        """True when ``number`` lies on the wanted side."""
        match self.side:
            case ">":
                return number > self.value
            case ">=":
                return number >= self.value
            case "<":
                return number < self.value
            case "<=":
                return number <= self.value


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a gate.

    Attributes:
        gate: The gate.
        seeds: How many were run.
        median: Of the seeds' ratios; None without a seed, or when one says nothing.
        interval: Bootstrap interval of that median, ``LEVEL``; None likewise.
        verdict: By ``judge``.
    """

    gate: Gate
    seeds: int
    median: float | None
    interval: tuple[float, float] | None
    verdict: Verdict


def judge(gate: Gate, ratios: Sequence[float]) -> Judged:
    """PASS: the whole interval on the gate's side. FAIL: all of it on the other. Else INCONCLUSIVE.

    Fewer than ``FEWEST`` seeds are "not run", whatever they say. With a ratio that is no number, or
    one over a baseline that collapsed, there is no interval, and nothing passes or fails.
    """
    if not ratios:
        return Judged(gate, 0, None, None, "not run")
    verdict: Verdict
    if not np.isfinite(ratios).all() or max(ratios) > COLLAPSED:
        verdict = "not run" if len(ratios) < FEWEST else "INCONCLUSIVE"
        return Judged(gate, len(ratios), None, None, verdict)
    low, high = interval(ratios)
    middle = float(median(ratios))
    if len(ratios) < FEWEST:
        verdict = "not run"
    elif gate.admits(low) and gate.admits(high):
        verdict = "PASS"
    elif gate.admits(low) or gate.admits(high):
        verdict = "INCONCLUSIVE"
    else:
        verdict = "FAIL"
    return Judged(gate, len(ratios), middle, (low, high), verdict)


def chance(scans: int) -> float:
    """The least area under the curve that chance reaches in one of twenty draws, classes being equal.

    Normal approximation of the rank sum (Mann and Whitney 1947).
    """
    each = scans / 2
    return 0.5 + ONE_OF_TWENTY * ((2 * each + 1) / (12 * each * each)) ** 0.5


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim's verdict: what the worst of its gates got; "not run" when one of them was not."""
    return min(verdicts, key=ORDER.index, default="not run")


def interval(ratios: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of the median, seeds drawn with replacement (Efron and Tibshirani 1993).

    Args:
        ratios: One per seed, at least one, all finite.
        seed: Of the drawing.
    """
    values = np.asarray(ratios, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    middles = np.median(values[picks], axis=1)
    low, high = np.quantile(middles, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), method="nearest")
    return float(low), float(high)


def confidence(seeds: int) -> float:
    """How often the span of so many seeds holds the true median of all seeds: 1 - 2^(1 - n).

    Whatever the distribution: the median lies outside only when all lie above it or all below.
    """
    return 1 - 2.0 ** (1 - seeds) if seeds > 0 else 0.0
