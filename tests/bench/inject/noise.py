"""A recipe that learns nothing: every weight plus a little noise that anybody can make again.

So the wall time of a round is transport, gate, encoding and aggregation, and an independent
recomputation knows every update to the bit. NumPy only: peers use it in other environments.

The noise is drawn once per site and round for ``POOL`` values (standard normal, float32, SFC64) and
laid end to end over the tensors in the order of their names. A pool is longer than a block of any
encoding (1 MiB), so no packer finds the repetition: the values are as incompressible as a real
update's mantissas. Its scale, ``SIGMA`` on weights of standard deviation ``WEIGHT``, is that of a
round of training with a learning rate of 1e-3.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

POOL = 1_500_007
SIGMA, WEIGHT = np.float32(1e-3), np.float32(0.02)


def pool(*key: object) -> NDArray[np.float32]:
    """``POOL`` standard normal values that follow from ``key``."""
    seed = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(seed[:16], "big")))
    return generator.standard_normal(POOL, dtype=np.float32)


def initial(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Weights to start from."""
    zero = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return shifted(zero, pool("initial") * WEIGHT)


def trained(
    weights: Mapping[str, NDArray[np.float32]], site: str, stage: str, number: int
) -> dict[str, NDArray[np.float32]]:
    """What ``site`` makes of ``weights`` in a round: one float32 addition a value."""
    return shifted(weights, pool(site, stage, number) * SIGMA)


def shifted(
    weights: Mapping[str, NDArray[np.float32]], values: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """``weights`` plus ``values`` laid end to end, and again from the beginning, over them."""
    found, at = {}, 0
    for name in sorted(weights):
        flat = weights[name].reshape(-1)
        out = np.empty_like(flat)
        done = 0
        while done < flat.size:
            count = min(flat.size - done, values.size - at)
            np.add(flat[done : done + count], values[at : at + count], out=out[done : done + count])
            done, at = done + count, (at + count) % values.size
        found[name] = out.reshape(weights[name].shape)
    return found
