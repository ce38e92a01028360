"""From the updates of a round to the next global model, by way of files.

Memory is one model and a few blocks for ``mean``, and one tensor and a block per site for the robust
rules, whatever the number of sites; the old model is never held.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import Delta
from stillroom.common.study import Aggregation
from stillroom.common.weightfile import file_order, settle
from stillroom.server.rounds.averaging import GroupAverage, rounded, wide
from stillroom.server.rounds.contributions import Contribution, blocks_of, norm_of
from stillroom.server.rounds.memory import Memory
from stillroom.server.rounds.robust import rule_of
from stillroom.server.rounds.successor import CHANGE, MODEL, Successor

SUFFIX, DELTA_SUFFIX = ".safetensors", ".delta"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round made.

    Attributes:
        sha256: Of the new model.
        nbytes: Size of its file.
        path: The file, ``<folder>/<sha256>.safetensors``.
        delta: The same model as a change of the old one; None for ``fp32``.
        delta_path: Its file, ``<folder>/<sha256>.delta``.
        totals: Cases per group over all sites.
        order: Sites in the order in which they were added: with their files, all that is needed
            to make the round again.
        clipped: Site -> factor, for updates that were shortened.
    """

    sha256: str
    nbytes: int
    path: Path
    delta: Delta | None
    delta_path: Path | None
    totals: dict[str, int]
    order: tuple[str, ...]
    clipped: dict[str, float] = field(default_factory=dict)


class RoundSum:
    """Takes updates one at a time, as they arrive, and makes the next model of them.

    Args:
        base: File of the current global model.
        base_sha256: Its digest.
        manifest: The stage's tensors.
        encoding: The stage's encoding; every update has it.
        rules: The stage's aggregation.
    """

    def __init__(
        self, base: Path, base_sha256: str, manifest: Manifest, encoding: str, rules: Aggregation
    ) -> None:
        self._base, self._base_sha256, self._manifest = base, base_sha256, manifest
        self._encoding, self._rules = encoding, rules
        self._average = GroupAverage(manifest)
        self._added: list[Contribution] = []
        self._clipped: dict[str, float] = {}

    @property
    def needs_files(self) -> bool:
        """Whether updates' files must stay until ``finish``: a robust rule reads them together."""
        return self._rules.method != "mean"

    @property
    def order(self) -> tuple[str, ...]:
        """Sites added so far."""
        return tuple(one.site for one in self._added)

    def add(self, contribution: Contribution) -> float:
        """Add one update.

        Returns:
            The factor by which its change was shortened; 1 where it was not.

        Raises:
            ContractError: STR-300, it has another base or encoding than the round; STR-304, its
                counts do not fit. Nothing was added then. Any other error leaves a broken sum:
                begin the round's sum again.
        """
        if (contribution.base, contribution.encoding) != (self._base_sha256, self._encoding):
            raise ContractError(
                "The update was made from another model or is written in another way than asked.",
                fix="Check that site and server run the same release.",
            )
        factor = 1.0
        if self._rules.clip_norm is not None:
            norm = norm_of(contribution, self._base, self._manifest)
            factor = min(1.0, self._rules.clip_norm / norm) if norm else 1.0
        blocks = iter(()) if self.needs_files else self._blocks(contribution, factor)
        self._average.add_blocks(blocks, contribution.samples)
        self._added.append(contribution)
        if factor < 1:
            self._clipped[contribution.site] = factor
        return factor

    def finish(self, folder: Path, memory: Memory) -> Aggregate:
        """Make the next model; every file named in the result is on disk when this returns.

        The files of a round that was interrupted are written again, to the same bytes. Call once.

        Args:
            folder: For the new model and its change; on the file system of ``memory``'s.
            memory: Of the stage at this round.

        Raises:
            ContractError: STR-305, there is no update; STR-303, the change is not finite.
            TrustError: STR-204, the memory of the round before is missing.
        """
        if not self._added:
            raise ContractError(
                "No site returned a usable update for this round.",
                fix="See the round's record for the reason given by each site.",
                code="STR-305",
            )
        means = self._averages() if not self.needs_files else self._robust()
        with Successor(
            self._base, self._manifest, self._encoding, self._rules, folder
        ) as successor:
            successor.open(memory)
            for spec, mean in means:
                successor.put(spec, mean)
            (sha256, nbytes), change = successor.finish()
        path = settle(folder / MODEL, f"{sha256}{SUFFIX}")
        delta, delta_path = None, None
        if change is not None:
            delta = Delta(self._base_sha256, *change)
            delta_path = settle(folder / CHANGE, f"{delta.sha256}{DELTA_SUFFIX}")
        return Aggregate(
            sha256,
            nbytes,
            path,
            delta,
            delta_path,
            self._average.totals,
            self.order,
            dict(self._clipped),
        )

    def _blocks(
        self, contribution: Contribution, factor: float
    ) -> Iterator[tuple[TensorSpec, int, NDArray[Any]]]:
        return blocks_of(contribution, self._base, self._manifest, factor)

    def _averages(self) -> Iterator[tuple[TensorSpec, NDArray[Any] | None]]:
        for spec in file_order(self._manifest):
            yield spec, self._average.take(spec)

    def _robust(self) -> Iterator[tuple[TensorSpec, NDArray[Any] | None]]:
        """Every tensor's robust mean over the sites that trained its group; blocks from all files."""
        rule = rule_of(self._rules)
        walks = [self._blocks(one, self._clipped.get(one.site, 1.0)) for one in self._added]
        together = zip(*walks, strict=True)
        for spec in file_order(self._manifest):
            size = math.prod(spec.shape)
            keep = [i for i, one in enumerate(self._added) if one.samples.get(spec.group, 0)]
            mean = np.empty(size, wide(spec)) if keep else None
            done = 0
            while done < size:
                row = next(together)
                count = row[0][2].size
                if mean is not None:
                    values = np.empty((len(keep), count), mean.dtype)
                    for target, source in zip(values, keep, strict=True):
                        target[:] = row[source][2]
                    mean[done : done + count] = rule(values)
                done += count
            if mean is None:
                yield spec, None
            else:
                mean = mean.reshape(spec.shape)
                yield spec, mean if spec.dtype == "float32" else rounded(mean, spec)
        for _ in together:  # Every file is read to its end, so that its length is checked.
            raise AssertionError("a file has more blocks than its manifest")


def aggregate(
    contributions: Iterable[Contribution], total: RoundSum, folder: Path, memory: Memory
) -> Aggregate:
    """Add every update in the order given and make the next model; raises as ``RoundSum`` does."""
    for contribution in contributions:
        total.add(contribution)
    return total.finish(folder, memory)
