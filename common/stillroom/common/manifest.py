"""Which tensors may cross the boundary in one stage, and the check of an update against them."""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stillroom.common.errors import ContractError

Weights = Mapping[str, NDArray[Any]]
"""Tensor name -> array, float32 unless the manifest says otherwise."""


BLOCK = 1 << 16
"""Values looked at in one go: 256 KiB as float32."""
LEAST_NORMAL = np.finfo(np.float32).tiny
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

    def require_names(self, names: Collection[str]) -> None:
        """Refuse other tensors than this manifest's; STR-301."""
        expected = {spec.name for spec in self.tensors}
        if set(names) != expected:
            missing, extra = sorted(expected - set(names)), sorted(set(names) - expected)
            raise ContractError(
                f"The update has {len(missing)} missing and {len(extra)} unexpected tensors, "
                f"e.g. {(missing + extra)[0]!r:.80}.",
                fix="Check that site and server run the same release.",
                code="STR-301",
            )

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
        self.require_names(weights)
        tally = Tally(self, max_norm)
        for spec in self.tensors:
            value = weights[spec.name]
            if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
                raise wrong_tensor(spec, str(value.dtype), value.shape)
            tally.add(spec, value)
        return tally.norm()


class Tally:
    """What is known of an update's numbers, of which any part may be looked at at a time."""

    def __init__(self, manifest: Manifest, max_norm: float) -> None:
        self._max_norm, self._square, self._faint = max_norm, 0.0, 0
        values = sum(math.prod(spec.shape) for spec in manifest.tensors)
        self._allowed = max(FAINT_LEAST, FAINT_SHARE * values)

    def add(self, spec: TensorSpec, values: NDArray[Any]) -> None:
        """Look at some values of a tensor.

        Raises:
            ContractError: STR-303, one is not finite.
        """
        square, faint = _measure(values)
        if not math.isfinite(square):
            raise ContractError(
                f"Tensor {spec.name} holds NaN or infinity.",
                fix="Lower the learning rate, or look at this site's scans of that stage.",
                code="STR-303",
            )
        self._square, self._faint = self._square + square, self._faint + faint

    def norm(self) -> float:
        """Norm over everything that was looked at.

        Raises:
            ContractError: STR-303, it is above the bound, or too many values are subnormal.
        """
        norm = math.sqrt(self._square)
        if norm > self._max_norm:
            raise ContractError(
                f"The update's norm {norm:.3g} exceeds the study's bound {self._max_norm:.3g}.",
                fix="Look at this site's training loss; the update was not used.",
                code="STR-303",
            )
        if self._faint > self._allowed:
            raise ContractError(
                f"{self._faint} values of the update are too small to be the result of training.",
                fix="Look at this site's weight decay and loss; the update was not used.",
                code="STR-303",
            )
        return norm


def wrong_tensor(spec: TensorSpec, dtype: str, shape: tuple[int, ...]) -> ContractError:
    """The refusal of a tensor of another kind than the manifest's."""
    return ContractError(
        f"Tensor {spec.name} is {dtype}{list(shape)}, expected {spec.dtype}{list(spec.shape)}.",
        fix="Check that site and server run the same release.",
        code="STR-302",
    )


def _measure(value: NDArray[Any]) -> tuple[float, int]:
    """Sum of squares, and how many values are subnormal (0 < |x| < 1.2e-38), block by block.

    A block fits the processor's cache, so the model is read once from memory, and nothing of its
    size is allocated. The sum is NaN or infinite exactly when a value is: where float32 squares
    overflow, the block is summed again in float64, which cannot overflow from them.
    """
    flat = value.reshape(-1)
    single = flat.dtype == np.float32
    total, faint = 0.0, 0
    size = min(BLOCK, flat.size)
    magnitude, small = np.empty(size, np.float32), np.empty(size, np.bool_)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        with np.errstate(invalid="ignore", over="ignore"):  # the sum shows what it was
            square = float(np.dot(part, part)) if single else math.inf
            if not math.isfinite(square):
                wide = part.astype(np.float64)
                square = float(np.dot(wide, wide))
            total += square
            if single:
                low = small[: part.size]
                np.less(np.abs(part, out=magnitude[: part.size]), LEAST_NORMAL, out=low)
                if found := int(np.count_nonzero(low)):
                    # By bits: a processor that takes subnormals for zero must not hide them.
                    bits = part.view(np.uint32) & 0x7FFFFFFF
                    faint += found - (part.size - int(np.count_nonzero(bits)))
    return total, faint
