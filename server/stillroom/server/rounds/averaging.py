"""Weighted averaging of site updates, per parameter group. Pure: no Flower, no torch, no I/O."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, Weights

BLOCK = 1 << 16
"""Elements per step: the scratch block (256 KiB) stays in the second-level cache."""


class GroupAverage:
    """A running sum in which every group has its own weight.

    ``theta_g = sum_k n_kg * theta_kg / sum_k n_kg`` with ``n_kg`` the cases at site k that put a
    gradient into group g (DESIGN section 7). A site without a label therefore never dilutes that
    label's head; with every label everywhere this is FedAvg (McMahan et al. 2017, algorithm 1).

    Memory is one model plus one block, whatever the number of sites. Sums are float32 in the
    order of ``add``: callers add in a recorded order so that a round can be replayed.

    Args:
        manifest: Tensors of the stage; updates have been checked against it.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sums: dict[str, NDArray[np.float32]] = {}
        self._totals = dict.fromkeys(manifest.groups, 0)
        self._scratch = np.empty(BLOCK, np.float32)

    def add(self, weights: Weights, samples: Mapping[str, int]) -> None:
        """Add one site's update.

        Args:
            weights: Exactly the manifest's tensors.
            samples: Cases per group; a group left out counts 0.

        Raises:
            ContractError: STR-304 when a count names an unknown group or is negative.
        """
        if not samples.keys() <= self._totals.keys() or any(n < 0 for n in samples.values()):
            raise ContractError(
                "The sample counts do not fit the stage's parameter groups.",
                fix="Check that site and server run the same release.",
                code="STR-304",
            )
        for spec in self._manifest.tensors:
            count = samples.get(spec.group, 0)
            if count:
                self._accumulate(spec.name, weights[spec.name], count)
        for group, count in samples.items():
            self._totals[group] += count

    def finish(self, previous: Weights) -> dict[str, NDArray[np.float32]]:
        """The average; a group no site trained keeps its ``previous`` weights.

        The sums are divided in place: call once.
        """
        result: dict[str, NDArray[np.float32]] = {}
        for spec in self._manifest.tensors:
            total = self._totals[spec.group]
            if total == 0:
                result[spec.name] = previous[spec.name]
            else:
                result[spec.name] = np.divide(
                    self._sums[spec.name], np.float32(total), out=self._sums[spec.name]
                )
        return result

    @property
    def totals(self) -> dict[str, int]:
        """Cases per group over all sites added so far."""
        return dict(self._totals)

    def _accumulate(self, name: str, value: NDArray[np.float32], count: int) -> None:
        if name not in self._sums:
            self._sums[name] = np.zeros(value.shape, np.float32)
        into, source = self._sums[name].reshape(-1), np.ascontiguousarray(value).reshape(-1)
        factor = np.float32(count)
        for start in range(0, into.size, BLOCK):
            part = source[start : start + BLOCK]
            product = self._scratch[: part.size]
            np.multiply(part, factor, out=product)
            into[start : start + part.size] += product
