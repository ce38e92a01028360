"""Adaptive optimisers at the server. Pure: blocks in, blocks out.

Reddi et al. 2021, "Adaptive federated optimization" (ICLR), algorithm 2: the sites' mean change takes
the place of a gradient. As there, without correction of the moments' bias, and the second moment
starts at ``tau**2``. Flower's FedAdam holds whole models as records; this one walks over files.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.study import Aggregation

Floats = NDArray[np.float32]


def is_adaptive(rules: Aggregation) -> bool:
    """Whether a study's server keeps moments."""
    return rules.server != "fedavg"


def start_of(kind: str, rules: Aggregation) -> float:
    """What a moment holds before the first round: ``first`` 0, ``second`` ``tau**2``."""
    return 0.0 if kind == "first" else rules.tau**2


def step(change: Floats, first: Floats, second: Floats, rules: Aggregation) -> NDArray[Any]:
    """What is added to the global model; the moments are brought up to date in place.

    ``m = beta1 m + (1 - beta1) d``; Adam ``v = beta2 v + (1 - beta2) d^2``, Yogi
    ``v = v - (1 - beta2) d^2 sign(v - d^2)``; ``x = x + eta m / (sqrt(v) + tau)``.

    Args:
        change: Mean change ``d`` of the sites, ``(n,)``.
        first: Moment ``m``, ``(n,)``.
        second: Moment ``v``, ``(n,)``, >= 0.
        rules: ``server`` is ``fedadam`` or ``fedyogi``.
    """
    beta1, beta2 = np.float32(rules.beta1), np.float32(rules.beta2)
    one = np.float32(1)
    first *= beta1
    first += (one - beta1) * change
    square = change * change
    if rules.server == "fedyogi":
        second -= (one - beta2) * square * np.sign(second - square)
    else:
        second *= beta2
        second += (one - beta2) * square
    below = np.sqrt(second)
    below += np.float32(rules.tau)
    return np.float32(rules.learning_rate) * first / below
