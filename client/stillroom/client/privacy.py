"""Noise on an update before anything sees it: the site's side of a stage's ``privacy``.

What a round changed is shortened to a bound and drowned in Gaussian noise here, in the process that
trained, so that neither the courier nor the server ever holds the bare weights (McMahan et al.
2018, arXiv:1710.06963, with the noise added by the site itself and not by the server). What that
buys, and what it does not cover, is said in ``common.stage.Privacy``; epsilon is stated by
``common.accounting``.

Not defended: the grid of floating-point numbers itself, on which noise of a few exact values could
in theory be told apart (Mironov 2012).
"""

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.supercore.differential_privacy import clip_inputs_inplace
from numpy.typing import NDArray

from stillroom.common.manifest import BLOCK, Weights
from stillroom.common.stage import Privacy


def fresh_noise() -> np.random.Generator:
    """A source of noise that nobody can repeat, the study's operators least of all.

    Seeded by the operating system, never by the study's seed: every site and the server know that
    one, and whoever can draw the noise again can take it off again. For the same reason Flower's
    own function is not used, which draws from NumPy's shared Mersenne Twister: it can be told from
    624 of its numbers, and anybody in the process may have seeded it.
    """
    return np.random.Generator(np.random.Philox(key=secrets.randbits(128)))


def privatise(
    weights: Mapping[str, NDArray[Any]],
    base: Weights,
    privacy: Privacy,
    *,
    noise: np.random.Generator | None = None,
) -> None:
    """Turn a site's trained ``weights``, in place, into what may leave it.

    Every value of every tensor is noised, those that training left alone too: which they are says
    what this site learns from. Beside the two models nothing is held but one tensor and a block.

    Args:
        weights: After training, float32; afterwards ``base`` + shortened change + noise.
        base: The global weights that training started from; same names and shapes.
        privacy: Bound and amount of noise.
        noise: For tests; fresh when left out.

    Raises:
        ValueError: Names differ, or a tensor is not float32: it would leave bare.
    """
    if weights.keys() != base.keys():
        raise ValueError(f"{len(weights.keys() ^ base.keys())} tensor names differ")
    if any(value.dtype != np.float32 for value in weights.values()):
        raise ValueError("only float32 tensors can be noised")
    source = fresh_noise() if noise is None else noise
    changes = list(weights.values())
    for name, change in weights.items():
        np.subtract(change, base[name], out=change)
    # Flower's function divides by the norm.
    if any(change.any() for change in changes):
        clip_inputs_inplace(changes, privacy.clip_norm)
    for name, change in weights.items():
        _add_noise(change, privacy.noise_multiplier * privacy.clip_norm, source)
        np.add(base[name], change, out=change)


def _add_noise(values: NDArray[np.float32], deviation: float, source: np.random.Generator) -> None:
    """Gaussian noise of standard ``deviation`` on every value, block by block."""
    flat = values.reshape(-1)
    if not np.shares_memory(flat, values):
        raise ValueError("a tensor is not contiguous")
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        # Drawn in double and rounded once, after the product.
        part += (source.standard_normal(part.size) * deviation).astype(np.float32)
