"""How well whole scans are classified. Pure NumPy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def area_under_curve(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve in [0, 1]: how often a positive scores above a negative.

    Mann and Whitney's statistic; a tie counts half. None when there are only positives or only
    negatives: then no order can be right or wrong.

    Args:
        scores: ``(N,)``, larger for the more positive.
        positive: ``(N,)``.
    """
    yes, no = scores[positive], scores[~positive]
    if not yes.size or not no.size:
        return None
    above = (yes[:, None] > no[None, :]).mean()
    equal = (yes[:, None] == no[None, :]).mean()
    return float(above + 0.5 * equal)


def score_classes(
    label: str,
    classes: Sequence[str],
    probabilities: NDArray[np.floating],
    truth: NDArray[np.integer],
) -> dict[str, float]:
    """``eval.<label>.<class>.auc|accuracy|cases`` of every class that at least one scan has.

    ``cases`` counts the scans of the class, and ``accuracy`` is the share of them that were given
    it: weighted by ``cases``, the accuracies of all classes and sites make the accuracy of all scans.
    ``auc`` is one against the rest at this site; it is left out where the rest is empty. Our choice:
    a site says nothing of a class by which it has no scan.

    Args:
        label: Its name.
        classes: Names.
        probabilities: ``(N, len(classes))``.
        truth: ``(N,)`` class numbers.
    """
    said = probabilities.argmax(1)
    numbers: dict[str, float] = {}
    for index, name in enumerate(classes):
        own = truth == index
        if not own.any():
            continue
        prefix = f"eval.{label}.{name}"
        numbers[f"{prefix}.cases"] = int(own.sum())
        numbers[f"{prefix}.accuracy"] = float((said[own] == index).mean())
        area = area_under_curve(probabilities[:, index], own)
        if area is not None:
            numbers[f"{prefix}.auc"] = area
    return numbers
