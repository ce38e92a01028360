"""Which tensors may cross the boundary in one stage, and the check of an update against them."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stillroom.common.errors import ContractError

Weights = Mapping[str, NDArray[Any]]
"""Tensor name -> array, float32 unless the manifest says otherwise."""


BLOCK = 1 << 16
"""Values looked at in one go: 256 KiB as float32, 512 KiB widened."""
FAINT_LEAST, FAINT_SHARE = 256, 0.001
"""Subnormal values an update may hold: this many, or this share of all."""


class TensorSpec(BaseModel):
    """One tensor of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: Annotated[str, Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))$")]
    """NumPy name, e.g. ``float32``."""
    group: str
    """Parameter group that is averaged together, e.g. ``encoder`` or ``head.vessels``."""

    @property
    def nbytes(self) -> int:
        """Size on the wire, uncompressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Manifest(BaseModel):
    """Names, shapes and dtypes of one stage's tensors, in wire order. Nothing else may leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one complete update, uncompressed."""
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name -> dtype and shape."""
        return {spec.name: (spec.dtype, spec.shape) for spec in self.tensors}

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names in order of first appearance."""
        return tuple(dict.fromkeys(spec.group for spec in self.tensors))

    def check(self, weights: Weights, *, max_norm: float) -> float:
        """Refuse ``weights`` unless they are exactly this manifest's tensors, finite and bounded.

        Args:
            weights: What is about to cross the boundary.
            max_norm: Bound on the Euclidean norm over all tensors together.

        Returns:
            That norm.

        Raises:
            ContractError: STR-301 names differ, STR-302 shape or dtype, STR-303 not finite
                or norm above ``max_norm`` or a flood of subnormal numbers: they change no
                prediction, so they are either a defect or a message. Messages name tensors, never values.
        """
        expected = {spec.name for spec in self.tensors}
        if weights.keys() != expected:
            missing, extra = sorted(expected - weights.keys()), sorted(weights.keys() - expected)
            raise ContractError(
                f"The update has {len(missing)} missing and {len(extra)} unexpected tensors, "
                f"e.g. {(missing + extra)[0]!r:.80}.",
                fix="Check that site and server run the same release.",
                code="STR-301",
            )
        total, faint = 0.0, 0
        for spec in self.tensors:
            value = weights[spec.name]
            if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
                raise ContractError(
                    f"Tensor {spec.name} is {value.dtype}{list(value.shape)}, "
                    f"expected {spec.dtype}{list(spec.shape)}.",
                    fix="Check that site and server run the same release.",
                    code="STR-302",
                )
            square, subnormal = _measure(value)
            if not math.isfinite(square):
                raise ContractError(
                    f"Tensor {spec.name} holds NaN or infinity.",
                    fix="Lower the learning rate, or look at this site's scans of that stage.",
                    code="STR-303",
                )
            total, faint = total + square, faint + subnormal
        norm = math.sqrt(total)
        if norm > max_norm:
            raise ContractError(
                f"The update's norm {norm:.3g} exceeds the study's bound {max_norm:.3g}.",
                fix="Look at this site's training loss; the update was not used.",
                code="STR-303",
            )
        allowed = max(FAINT_LEAST, FAINT_SHARE * sum(math.prod(s.shape) for s in self.tensors))
        if faint > allowed:
            raise ContractError(
                f"{faint} values of the update are too small to be the result of training.",
                fix="Look at this site's weight decay and loss; the update was not used.",
                code="STR-303",
            )
        return norm


def _measure(value: NDArray[Any]) -> tuple[float, int]:
    """Sum of squares, and how many values are subnormal (0 < |x| < 1.2e-38), block by block.

    A block fits the processor's cache and is widened there: the model is read once, and nothing
    of its size is allocated. The sum is NaN or infinite exactly when a value is: float64 cannot
    overflow from float32 squares.
    """
    flat = value.reshape(-1)
    single = flat.dtype == np.float32
    total, faint = 0.0, 0
    wide = np.empty(min(BLOCK, flat.size), np.float64)
    bits = np.empty(min(BLOCK, flat.size), np.uint32)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        block = wide[: part.size]
        block[:] = part
        total += float(np.dot(block, block))
        if single:
            # Without its sign, a subnormal's bits are 1..2^23-1; zero wraps around to the top.
            word = bits[: part.size]
            np.left_shift(part.view(np.uint32), 1, out=word)
            word -= 2
            faint += int(np.count_nonzero(word < 0x00FFFFFE))
    return total, faint
