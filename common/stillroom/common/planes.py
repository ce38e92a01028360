"""Blocks of changes as two bytes or one a value, and as planes of bytes of one kind. Pure.

A float's bytes differ in kind: sign and exponent repeat, the last bits of the mantissa are noise.
Bytes of one kind are put together (a plane), so that a packer can leave the noise alone.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import BLOCK, TensorSpec

LARGEST = 1e37
"""Magnitude from which a change is no change: far above any weight, far below float32's overflow."""
TINY = float(np.finfo(np.float32).tiny)
"""Least normal float32; anything closer to zero is written as zero."""
LEAST_ROW = 16
"""Rows shorter than this share one scale: their own would cost more than it saves."""
CODES = 127
"""Largest int8 code; -128 is never written."""

Block = NDArray[Any]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def grid(spec: TensorSpec, encoding: str) -> tuple[int, int]:
    """Rows of a tensor and their length, between which its blocks are cut."""
    if encoding == "int8-delta" and spec.dtype == "float32":
        return rows_of(spec)
    return 1, math.prod(spec.shape)


def rows_of(spec: TensorSpec) -> tuple[int, int]:
    """How many scales ``int8-delta`` gives a tensor, and the values under each.

    Channels are the first axis of a tensor of two axes or more.
    """
    size = math.prod(spec.shape)
    if len(spec.shape) < 2 or size == 0 or size // spec.shape[0] < LEAST_ROW:
        return min(size, 1), size
    return spec.shape[0], size // spec.shape[0]


def cuts(rows: int, length: int) -> list[tuple[int, int]]:
    """Start and size of every block of a tensor: whole rows, or pieces of one, <= ``BLOCK`` values."""
    if length > BLOCK:
        return [
            (row * length + at, min(BLOCK, length - at))
            for row in range(rows)
            for at in range(0, length, BLOCK)
        ]
    step = max(1, BLOCK // max(length, 1)) * length
    return [(at, min(step, rows * length - at)) for at in range(0, rows * length, max(step, 1))]


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Float32 rounded to the nearest bfloat16, ties to even; a result below ``TINY`` is +0.

    bfloat16 is float32's upper half: adding 0x7fff and the bit that will be last rounds it, as the
    carry runs into the exponent where it must. Relative error at most 2**-8.

    Raises:
        ContractError: STR-303, not finite or ``LARGEST`` and above.
    """
    words = values.view(np.uint32)
    odd = np.bitwise_and(words, 0x7FFFFFFF)
    if odd.size and odd.max() >= np.float32(LARGEST).view(np.uint32):
        raise _not_a_number()
    np.right_shift(words, 16, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    odd += 0x7FFF
    odd += words
    np.right_shift(odd, 16, out=odd)
    codes = odd.astype(np.uint16)
    codes *= (codes & 0x7F80) != 0
    return codes


def from_bfloat16(codes: NDArray[np.uint16]) -> Floats:
    """The float32 values ``to_bfloat16`` stands for.

    Raises:
        ContractError: STR-303, a code that it never writes.
    """
    size = codes & 0x7FFF
    most = (np.float32(LARGEST).view(np.uint32) >> 16) + 1  # LARGEST itself may round up.
    if size.size and size.max() > most:
        raise _not_a_number()
    size -= 1  # Zero wraps around to the top; subnormals stay below.
    # -0, 0x8000, is the least int16.
    if size.size and (size.min() < 0x7F or codes.view(np.int16).min() == -0x8000):
        raise _not_a_number()
    values: Floats = np.left_shift(codes, 16, dtype=np.uint32).view(np.float32)
    return values


def split(codes: NDArray[np.uint16]) -> tuple[Bytes, Bytes]:
    """High bytes and low bytes."""
    return (codes >> 8).astype(np.uint8), codes.astype(np.uint8)


def join(high: Bytes, low: Bytes) -> NDArray[np.uint16]:
    """What ``split`` took apart."""
    codes = np.left_shift(high, 8, dtype=np.uint16)
    codes |= low
    return codes


def scales_of(rows: Floats) -> Floats:
    """One scale per row, ``max |row| / 127``; 0 where that is below ``TINY``: the row is then 0.

    Args:
        rows: ``(R, L)``.

    Raises:
        ContractError: STR-303, a value is not finite or ``LARGEST`` and above.
    """
    if rows.size == 0:
        return np.zeros(rows.shape[0], np.float32)
    most = np.empty(rows.shape[0], np.float32)
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        # Two reductions of what is in the cache, and no |row|: nothing of the tensor's size is
        # allocated. NaN passes through both.
        part = rows[start : start + step]
        np.maximum(part.max(axis=1), -part.min(axis=1), out=most[start : start + step])
    if not np.all(most < np.float32(LARGEST)):
        raise _not_a_number()
    scales: Floats = most / np.float32(CODES)
    scales[scales < TINY] = 0
    return scales


def quantise(rows: Floats, scales: Floats) -> NDArray[np.int8]:
    """Nearest multiple of its row's scale for every value, in [-127, 127]; error <= scale / 2."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    steps = rows * inverse[:, None]
    np.rint(steps, out=steps)
    return steps.astype(np.int8)


def dequantise(codes: NDArray[np.int8], scales: Floats) -> Floats:
    """The float32 values that codes ``(R, L)`` stand for under scales ``(R,)``.

    Raises:
        ContractError: STR-303, a code that ``quantise`` never gives.
    """
    if codes.size and codes.min() < -CODES:
        raise _not_a_number()
    values = codes.astype(np.float32)
    values *= scales[:, None]
    return values


def check_scales(scales: Floats) -> None:
    """Refuse scales that ``scales_of`` never gives.

    Raises:
        ContractError: STR-303.
    """
    usual = (scales >= TINY) & (scales <= LARGEST / CODES)
    if not np.all(usual | (scales.view(np.uint32) == 0)):
        raise _not_a_number()


def _not_a_number() -> ContractError:
    return ContractError(
        "A change of a weight is not a finite number of a plausible size.",
        fix="Lower the learning rate, or look at this site's scans of that stage.",
        code="STR-303",
    )
