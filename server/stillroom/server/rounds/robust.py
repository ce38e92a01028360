"""Coordinate-wise median and trimmed mean. Pure: blocks in, a block out.

Yin et al. 2018, "Byzantine-robust distributed learning" (ICML), definitions 1 and 2: with more than
half of the sites honest, no coordinate of the median leaves the range of the honest values; the
trimmed mean bears as many hostile sites as it trims at each end.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.study import Aggregation

Rule = Callable[[NDArray[Any]], NDArray[Any]]
"""``(K, n)`` values of K sites -> ``(n,)``. The input is sorted in place."""


def rule_of(rules: Aggregation) -> Rule:
    """The rule a study asks for; KeyError for ``mean``, which needs no block of every site at once."""

    def trimmed(values: NDArray[Any]) -> NDArray[Any]:
        return trimmed_mean(values, rules.trim)

    return {"median": median, "trimmed-mean": trimmed}[rules.method]


def median(values: NDArray[Any]) -> NDArray[Any]:
    """The middle value of every column of ``(K, n)``; of an even number the mean of the two."""
    _sort(values)
    count = len(values)
    middle: NDArray[Any] = values[count // 2]
    if count % 2 == 0:
        # Halved before they are added: two large values do not overflow.
        half = values.dtype.type(0.5)
        middle = half * values[count // 2 - 1] + half * middle
    return middle


def trimmed_mean(values: NDArray[Any], share: float) -> NDArray[Any]:
    """Mean of every column of ``(K, n)`` without its ``share`` least and ``share`` largest values.

    At least one at each end once there are three sites: a study that asks for this rule with few
    sites means it.
    """
    _sort(values)
    cut = trimmed_sites(len(values), share)
    kept = values[cut : len(values) - cut]
    factor = values.dtype.type(1 / len(kept))
    total: NDArray[Any] = kept[0] * factor
    for row in kept[1:]:  # From the least up: the order of the sites does not show.
        total += row * factor
    return total


def trimmed_sites(count: int, share: float) -> int:
    """How many of ``count`` sites are dropped at each end; fewer than half of them."""
    if count < 3:
        return 0
    return min(max(1, int(share * count)), (count - 1) // 2)


@lru_cache(maxsize=64)
def network(count: int) -> Sequence[tuple[int, int]]:
    """Pairs whose exchange, in this order, sorts ``count`` values (Batcher's odd-even merge sort).

    Knuth, The Art of Computer Programming 3, section 5.2.2, algorithm M.
    """
    pairs: list[tuple[int, int]] = []
    step = 1 << max(0, (count - 1).bit_length() - 1)
    top = width = step
    while width:
        jump, distance, bit = top, width, 0
        while True:
            pairs += [(i, i + distance) for i in range(count - distance) if i & width == bit]
            if jump == width:
                break
            distance, jump, bit = jump - width, jump // 2, width
        width //= 2
    return tuple(pairs)


def _sort(values: NDArray[Any]) -> None:
    """Sort every column of ``(K, n)`` in place.

    Whole rows are exchanged: ten times faster than sorting n short columns one by one.
    """
    least = np.empty_like(values[0])
    for low, high in network(len(values)):
        np.minimum(values[low], values[high], out=least)
        np.maximum(values[low], values[high], out=values[high])
        values[low] = least
