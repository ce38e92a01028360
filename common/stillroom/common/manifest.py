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


class TensorSpec(BaseModel):
    """One tensor of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    dtype: str
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
    def groups(self) -> tuple[str, ...]:
        """Group names in order of first appearance."""
        return tuple(dict.fromkeys(spec.group for spec in self.tensors))

    def check(self, weights: Weights, *, max_norm: float) -> None:
        """Refuse ``weights`` unless they are exactly this manifest's tensors, finite and bounded.

        Args:
            weights: What is about to cross the boundary.
            max_norm: Bound on the Euclidean norm over all tensors together.

        Raises:
            ContractError: STR-301 names differ, STR-302 shape or dtype, STR-303 not finite
                or norm above ``max_norm``. Messages name tensors, never values.
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
        total = 0.0
        for spec in self.tensors:
            value = weights[spec.name]
            if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
                raise ContractError(
                    f"Tensor {spec.name} is {value.dtype}{list(value.shape)}, "
                    f"expected {spec.dtype}{list(spec.shape)}.",
                    fix="Check that site and server run the same release.",
                    code="STR-302",
                )
            # The dot product is NaN or infinite exactly when an element is (float64 cannot
            # overflow from float32 squares), so one pass answers both questions.
            flat = value.reshape(-1).astype(np.float64, copy=False)
            square = float(np.dot(flat, flat))
            if not math.isfinite(square):
                raise ContractError(
                    f"Tensor {spec.name} holds NaN or infinity.",
                    fix="Lower the learning rate, or look at this site's scans of that stage.",
                    code="STR-303",
                )
            total += square
        if math.sqrt(total) > max_norm:
            raise ContractError(
                f"The update's norm {math.sqrt(total):.3g} exceeds the study's bound {max_norm:.3g}.",
                fix="Look at this site's training loss; the update was not used.",
                code="STR-303",
            )
