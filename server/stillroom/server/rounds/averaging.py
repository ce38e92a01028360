"""Weighted averaging of site updates, per parameter group. Pure: no Flower, no torch, no files."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec, Weights

BLOCK = 1 << 16
"""Elements per step: the product (256 KiB) stays in the second-level cache until it is added."""


class GroupAverage:
    """A running sum in which every group has its own weight.

    ``theta_g = sum_k n_kg * theta_kg / sum_k n_kg`` with ``n_kg`` the cases at site k that put a
    gradient into group g (DESIGN section 7). A site without a label therefore never dilutes that
    label's head; with every label everywhere this is FedAvg (McMahan et al. 2017, algorithm 1).
    The same sum serves whole weights and changes of them.

    Memory is one model plus one block, whatever the number of sites. Sums are float32 in the
    order of ``add``: callers add in a recorded order so that a round can be replayed. Tensors of
    another dtype are summed in float64 and rounded back to it.

    Args:
        manifest: Tensors of the stage; updates have been checked against it.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sums: dict[str, NDArray[Any]] = {}
        self._totals = dict.fromkeys(manifest.groups, 0)
        self._scratch = np.empty(BLOCK, np.float64)

    def add(self, weights: Weights, samples: Mapping[str, int]) -> None:
        """Add one site's update, held in memory.

        Args:
            weights: Exactly the manifest's tensors.
            samples: Cases per group; a group left out counts 0.

        Raises:
            ContractError: STR-304 when a count names an unknown group or is negative.
        """
        self.add_blocks(
            (
                (spec, 0, np.ascontiguousarray(weights[spec.name]))
                for spec in self._manifest.tensors
            ),
            samples,
        )

    def add_blocks(
        self, blocks: Iterable[tuple[TensorSpec, int, NDArray[Any]]], samples: Mapping[str, int]
    ) -> None:
        """Add one site's update as it is read, block by block.

        An error while it is read leaves half of the update in the sum: the sum is then lost.

        Args:
            blocks: Tensor, flat offset and values; all of the manifest, in any order.
            samples: Cases per group; a group left out counts 0.

        Raises:
            ContractError: STR-304 as ``add``, before the first block is asked for.
        """
        if not samples.keys() <= self._totals.keys() or any(n < 0 for n in samples.values()):
            raise ContractError(
                "The sample counts do not fit the stage's parameter groups.",
                fix="Check that site and server run the same release.",
                code="STR-304",
            )
        for spec, start, block in blocks:
            count = samples.get(spec.group, 0)
            if count:
                self._accumulate(spec, start, block.reshape(-1), count)
        for group, count in samples.items():
            self._totals[group] += count

    def take(self, spec: TensorSpec) -> NDArray[Any] | None:
        """The average of one tensor, or None where no site trained its group.

        It is handed over, not copied: the caller may write into it, and it can be taken once.
        """
        total = self._totals[spec.group]
        if total == 0:
            return None
        mean = self._sums.pop(spec.name, None)
        if mean is None:  # No block ever came: a tensor without values.
            mean = np.zeros(spec.shape, spec.dtype)
        np.divide(mean, mean.dtype.type(total), out=mean)
        return mean if spec.dtype == "float32" else rounded(mean, spec)

    def finish(self, previous: Weights) -> dict[str, NDArray[Any]]:
        """The average; a group no site trained keeps its ``previous`` weights. Call once."""
        result = {}
        for spec in self._manifest.tensors:
            mean = self.take(spec)
            result[spec.name] = previous[spec.name] if mean is None else mean
        return result

    @property
    def totals(self) -> dict[str, int]:
        """Cases per group over all sites added so far."""
        return dict(self._totals)

    def _accumulate(self, spec: TensorSpec, at: int, source: NDArray[Any], count: int) -> None:
        if spec.name not in self._sums:
            self._sums[spec.name] = np.zeros(spec.shape, wide(spec))
        into = self._sums[spec.name].reshape(-1)
        factor = into.dtype.type(count)
        scratch = self._scratch.view(into.dtype)[:BLOCK]
        for start in range(0, source.size, BLOCK):
            part = source[start : start + BLOCK]
            target = into[at + start : at + start + part.size]
            if count == 1 and part.dtype == into.dtype:
                target += part  # 1 * x is x, to the bit.
                continue
            product = scratch[: part.size]
            np.multiply(part, factor, out=product)
            target += product


def wide(spec: TensorSpec) -> str:
    """The dtype in which a tensor is summed."""
    return "float32" if spec.dtype == "float32" else "float64"


def rounded(value: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """A mean as a value of its tensor's own dtype: the nearest integer, the majority of truths."""
    nearest = value if np.dtype(spec.dtype).kind == "f" else np.rint(value)
    result: NDArray[Any] = nearest.astype(spec.dtype)
    return result
