"""How good a prediction is. Pure NumPy.

Truth is looked up by class, never by how many were found: in the original FedKD code one missed
point shifted all others. A missed point is a failure, not a NaN that drops out of a mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from stillroom.client.training.targets import Point


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class or point in one case.

    Attributes:
        dice: In [0, 1]; None for points.
        error_mm: Distance from the truth; None for masks and for points not found.
        found: Anything was predicted for it.
        detected: Good enough: Dice at least, or error at most, what the study asks for.
    """

    dice: float | None
    error_mm: float | None
    found: bool
    detected: bool


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Overlap 2|A∩B| / (|A| + |B|) in [0, 1]; 1 when both are empty."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(prediction & truth)) / total


def score_mask(
    prediction: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    classes: Sequence[str],
    *,
    min_dice: float,
) -> dict[str, ClassResult]:
    """Each class that the truth holds; a class absent from the truth is not scored."""
    results: dict[str, ClassResult] = {}
    for number, name in enumerate(classes, start=1):
        there, said = truth == number, prediction == number
        if there.any():
            value = dice(said, there)
            results[name] = ClassResult(value, None, bool(said.any()), value >= min_dice)
    return results


def score_points(
    prediction: Mapping[str, Point | None],
    truth: Mapping[str, Point | None],
    *,
    tolerance_mm: float,
) -> dict[str, ClassResult]:
    """Each point that the truth holds; one that the annotator could not see is not scored."""
    results: dict[str, ClassResult] = {}
    for name, there in truth.items():
        if there is None:
            continue
        said = prediction.get(name)
        error = None if said is None else math.dist(said, there)
        results[name] = ClassResult(
            None, error, error is not None, error is not None and error <= tolerance_mm
        )
    return results


def summarise(label: str, cases: Sequence[Mapping[str, ClassResult]]) -> dict[str, float]:
    """Numbers of one label type over cases, named as in ``common.metrics``.

    Per class: ``cases`` that hold it, mean ``dice``, median ``error_mm`` of those found, and
    the shares ``found`` and ``detected`` of all, so that a miss always counts.
    """
    numbers: dict[str, float] = {}
    for name in sorted({name for case in cases for name in case}):
        results = [case[name] for case in cases if name in case]
        prefix = f"eval.{label}.{name}"
        numbers[f"{prefix}.cases"] = len(results)
        numbers[f"{prefix}.found"] = fmean(result.found for result in results)
        numbers[f"{prefix}.detected"] = fmean(result.detected for result in results)
        overlaps = [result.dice for result in results if result.dice is not None]
        errors = [result.error_mm for result in results if result.error_mm is not None]
        if overlaps:
            numbers[f"{prefix}.dice"] = fmean(overlaps)
        if errors:
            numbers[f"{prefix}.error_mm"] = median(errors)
    return numbers
