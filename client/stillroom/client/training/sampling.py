"""Seeded random patches with augmentation.

No flips: mirroring a heart gives one that does not exist, with every left and right name wrong.
Small rotations, scalings and shifts, and changes of intensity, stand in for other patients and scanners.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool3d, grid_sample, pad

from stillroom.client.training.cases import Case
from stillroom.client.training.losses import Target
from stillroom.common.study import Volume

FOREGROUND_SHARE = 0.7
"""Share of patches centred near a labelled voxel."""
ANGLE = 0.12
"""Standard deviation of rotations about each axis, radians."""
SCALE = 0.06
"""Standard deviation of the logarithm of each axis' scale."""
SOFT_TISSUE_HU = 50
"""Muscle and blood without contrast agent."""
CONTRAST = 0.2
"""Standard deviation of the logarithm of contrast."""
MARGIN = 0.25
"""Voxels read around a patch for rotation, as a share of its side."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        x: ``(B, Cin, D, H, W)`` float32; channel 0 in about [-1, 1].
        targets: Label types that at least one sample has.
        ids: ``B`` case identifiers.
    """

    x: Tensor
    targets: dict[str, Target]
    ids: tuple[str, ...]


class Sampler:
    """Draws batches: every case once, in random order, before any comes again.

    Args:
        ids: Cases to draw from, at least one.
        read: Case by identifier.
        labels: Label types to learn; a sample lacks those its case lacks.
        volume: Patch and window of intensities.
        batch_size: Samples per batch.
        seed: Equal seeds give equal batches.
    """

    def __init__(
        self,
        ids: Sequence[str],
        read: Callable[[str], Case],
        *,
        labels: Sequence[str],
        volume: Volume,
        batch_size: int,
        seed: int,
    ) -> None:
        self._ids, self._read, self._labels, self._volume = tuple(ids), read, tuple(labels), volume
        self._batch_size = batch_size
        self._rng = np.random.default_rng(seed)
        self._queue: list[str] = []

    def draw(self) -> Batch:
        """The next batch."""
        ids, images, maps = [], [], []
        for _ in range(self._batch_size):
            if not self._queue:
                self._queue = [self._ids[i] for i in self._rng.permutation(len(self._ids))]
            case = self._read(self._queue.pop())
            x, classes = self._sample(case)
            ids.append(case.id)
            images.append(x)
            maps.append(classes)
        targets: dict[str, Target] = {}
        for label in self._labels:
            rows = [row for row, classes in enumerate(maps) if label in classes]
            if rows:
                stacked = torch.stack([maps[row][label] for row in rows])
                targets[label] = Target(torch.tensor(rows), stacked)
        return Batch(torch.stack(images), targets, tuple(ids))

    def _sample(self, case: Case) -> tuple[Tensor, dict[str, Tensor]]:
        """One patch ``(Cin, D, H, W)`` and its classes ``(D, H, W)`` per label type."""
        patch = self._volume.patch[::-1]
        # A slice stays one: it is turned in its plane, never out of it.
        flat = patch[0] == 1
        wide = tuple(max(int(side * (1 + MARGIN)) // 2 * 2, 1) for side in patch)
        start = [
            int(c) - side // 2 for c, side in zip(self._centre(case, patch), wide, strict=True)
        ]
        image = torch.from_numpy(cut(case.image, start, wide, fill=int(self._volume.hu_window[0])))
        there = [label for label in self._labels if label in case.targets]
        maps = [case.targets[label] for label in there]
        if case.condition is not None:
            maps.append(case.condition)
        grid = self._rotation(patch, wide, case.grid.spacing_mm, flat=flat)
        x = _resampled(image[None].float(), grid, "bilinear")
        if not maps:
            return self._shaded(normalise(x, self._volume.hu_window)), {}
        stacked = torch.from_numpy(np.stack([cut(one, start, wide, fill=0) for one in maps]))
        moved = _resampled(stacked.float(), grid, "nearest")
        x = self._shaded(normalise(x, self._volume.hu_window))
        if case.condition is not None:
            x = torch.cat([x, moved[-1:]])
        return x, {label: moved[i].long() for i, label in enumerate(there)}

    def _centre(self, case: Case, patch: tuple[int, ...]) -> NDArray[np.int64]:
        """Where a patch is centred: it stays inside the volume wherever the volume is larger."""
        shape = np.asarray(case.image.shape)
        half = np.asarray(patch) // 2
        rest = np.asarray(patch) - half
        low, high = np.minimum(half, shape // 2), np.maximum(shape - rest, shape // 2)
        there = [label for label in self._labels if label in case.targets]
        if there and self._rng.random() < FOREGROUND_SHARE:
            target = case.targets[there[self._rng.integers(len(there))]]
            voxels = np.flatnonzero(target)
            if voxels.size:
                voxel = np.unravel_index(self._rng.choice(voxels), target.shape)
                jitter = self._rng.integers(-half // 2, half // 2 + 1)
                return np.clip(np.asarray(voxel) + jitter, low, high)
        return self._rng.integers(low, high + 1)

    def _rotation(
        self,
        patch: tuple[int, ...],
        wide: tuple[int, ...],
        spacing_mm: tuple[float, ...],
        *,
        flat: bool,
    ) -> Tensor:
        """Sampling grid ``(1, *patch, 3)`` of a slightly rotated, scaled and shifted patch."""
        a, b, c = self._rng.normal(0, ANGLE, 3)
        if flat:
            a = b = 0.0
        turn = torch.linalg.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]]))
        scale = torch.from_numpy(np.exp(self._rng.normal(0, SCALE, 3)))
        # Turned and scaled in millimetres; grid_sample measures each axis (x, y, z) in half sides.
        mm = torch.tensor(spacing_mm).double()
        side, outer = torch.tensor(patch[::-1]).double(), torch.tensor(wide[::-1]).double()
        matrix = turn.double() * (scale * mm * side)[None, :] / (mm * outer)[:, None]
        shift = torch.from_numpy(self._rng.uniform(-1, 1, 3)) / outer
        theta = torch.cat([matrix, shift[:, None]], 1).float()
        return affine_grid(theta[None], [1, 1, *patch], align_corners=False)

    def _shaded(self, x: Tensor) -> Tensor:
        """``x`` ``(1, D, H, W)`` as another scanner and contrast phase might show it.

        Contrast is stretched about soft tissue, which agents leave where it is: a gain about the
        window's middle would hardly move blood, whose brightness is what differs most.
        """
        low, high = self._volume.hu_window
        tissue = (SOFT_TISSUE_HU - low) * 2 / (high - low) - 1
        contrast = float(np.exp(self._rng.normal(0, CONTRAST)))
        offset = self._rng.normal(0, 0.05)
        sigma = self._rng.uniform(0, 0.08)
        noise = torch.from_numpy(self._rng.standard_normal(x.shape, dtype=np.float32))
        if self._rng.random() < 0.3:
            x = 0.5 * x + 0.5 * avg_pool3d(pad(x[None], (1,) * 6, mode="replicate"), 3, 1)[0]
        return (x - tissue) * contrast + tissue + offset + noise * sigma


def normalise(hu: Tensor, window: tuple[float, float]) -> Tensor:
    """Hounsfield units clipped to ``window`` and scaled to [-1, 1], float32."""
    low, high = window
    return (hu.float().clamp(low, high) - low) * (2 / (high - low)) - 1


def cut(
    array: NDArray[Any], start: Sequence[int], size: Sequence[int], *, fill: int
) -> NDArray[Any]:
    """``size`` voxels from ``start`` on, with ``fill`` where that lies outside ``array``."""
    out = np.full(tuple(size), fill, array.dtype)
    source, place = [], []
    for first, length, limit in zip(start, size, array.shape, strict=True):
        low, high = max(first, 0), min(first + length, limit)
        if high <= low:
            return out
        source.append(slice(low, high))
        place.append(slice(low - first, high - first))
    out[tuple(place)] = array[tuple(source)]
    return out


def _resampled(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    """``x`` ``(C, D, H, W)`` at ``grid``."""
    return grid_sample(x[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]
