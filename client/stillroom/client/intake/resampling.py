"""From a scanner's grid to the study's: axis-aligned in LPS, one voxel size for every site.

Linear interpolation of block means. The paper behind the recipes used B-splines; at the sizes
of CT these cost 30 times as much and ring at calcium, so linear is our own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid, is_same_grid

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Low and high corner, LPS mm."""

AIR_HU = -1024
"""What lies outside the scanner's field of view."""

VOTE = 240
"""One-hot masks are stored as 0 and this, so that block means of 8, 12 or 16 are exact in uint8."""


@dataclass(frozen=True, slots=True)
class Target:
    """An axis-aligned LPS grid.

    Attributes:
        size: Voxels along (x, y, z).
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0).
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def grid(self) -> Grid:
        """The same as a general grid."""
        return Grid.make(self.size, self.spacing_mm, self.origin_mm, np.eye(3).ravel().tolist())


def target_for(
    source: Grid, spacing_mm: tuple[float, float, float], box: Box | None = None
) -> Target | None:
    """The working grid over a scan, centred on it.

    A scan that already is axis-aligned at this spacing keeps its voxels. A box selects voxels of
    that same lattice, so cropping never changes a value.

    Args:
        source: The scan; an oblique one is covered by its bounding box.
        spacing_mm: Along (x, y, z).
        box: Region to keep, already with its margin.

    Returns:
        None when ``box`` and scan do not meet.
    """
    corners = source.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    spacing = np.asarray(spacing_mm)
    # The 1e-6 keeps 99.5 from falling on either side by the noise of float32 headers.
    count = np.maximum(1, np.floor((high - low) / spacing + 0.5 + 1e-6))
    origin = (low + high) / 2 - (count - 1) / 2 * spacing
    first, last = np.zeros(3), count - 1
    if box is not None:
        first = np.maximum(first, np.floor((np.asarray(box[0]) - origin) / spacing + 0.5))
        last = np.minimum(last, np.ceil((np.asarray(box[1]) - origin) / spacing - 0.5))
        if (first > last).any():
            return None
        origin = origin + first * spacing
    nx, ny, nz = (int(n) for n in last - first + 1)
    x, y, z = (float(v) for v in origin)
    return Target((nx, ny, nz), spacing_mm, (x, y, z))


def resample_image(volume: sitk.Image, target: Target) -> NDArray[np.int16]:
    """Hounsfield units on the target grid, ``(D, H, W)``; air where the scan has nothing."""
    if not is_same_grid(Grid.of(volume), target.grid):
        volume = _linear(volume, target, AIR_HU)
    moved = sitk.GetArrayFromImage(volume)  # a copy: a view would outlive its image
    return np.clip(np.rint(moved), -32768, 32767).astype(np.int16)


def resample_mask(
    mask: NDArray[np.uint8], like: sitk.Image, target: Target, classes: int
) -> NDArray[np.uint8]:
    """A mask on the target grid by vote of the volume each class holds in a voxel.

    A voxel is background only when less than half of it is labelled, whichever the class, so two
    thin neighbours do not vanish between them; a class too small for any majority keeps the one
    voxel that holds most of it.

    Args:
        mask: ``(D, H, W)`` class indices on the grid of ``like``.
        like: The scan.
        target: Working grid.
        classes: Number of classes, background not counted.
    """
    if is_same_grid(Grid.of(like), target.grid):
        return mask
    best = np.zeros(target.shape, np.float32)
    labelled = np.zeros(target.shape, np.float32)
    winner = np.zeros(target.shape, np.uint8)
    densest: dict[int, tuple[int, ...]] = {}
    for index in range(1, classes + 1):
        held = mask == index
        if not held.any():
            continue
        one_hot = sitk.GetImageFromArray(held.astype(np.uint8) * np.uint8(VOTE))
        one_hot.CopyInformation(like)
        share = sitk.GetArrayFromImage(_linear(one_hot, target, 0))
        labelled += share
        wins = share > best
        winner[wins], best[wins] = index, share[wins]
        peak = np.unravel_index(int(share.argmax()), share.shape)
        if share[peak] > 0:
            densest[index] = tuple(int(v) for v in peak)
    winner[labelled < VOTE / 2] = 0
    for index, voxel in densest.items():
        if not (winner == index).any():
            winner[voxel] = index
    return winner


def _linear(image: sitk.Image, target: Target, outside: float) -> sitk.Image:
    """Mean over blocks where the target is coarser by more than 1.5, then linear interpolation."""
    shrunk = _block_mean(image, _block(Grid.of(image), target))
    return sitk.Resample(
        shrunk,
        target.size,
        sitk.Transform(),
        sitk.sitkLinear,
        target.origin_mm,
        target.spacing_mm,
        np.eye(3).ravel().tolist(),
        outside,
        sitk.sitkFloat32,  # ITK cuts decimals when it writes integers: a bias of half a unit
    )


def _block(source: Grid, target: Target) -> list[int]:
    """Voxels of the scan per voxel of the target along each axis of the scan, at least 1."""
    unit = np.abs(source.steps_mm / source.spacing_mm)
    along = np.asarray(target.spacing_mm) @ unit  # target's spacing as each source axis meets it
    return [max(1, round(float(f))) for f in along / source.spacing_mm]


def _block_mean(image: sitk.Image, block: Sequence[int]) -> sitk.Image:
    if max(block) == 1:
        return image
    # BinShrink drops an incomplete last block; repeat the border instead.
    missing = [-n % b for n, b in zip(image.GetSize(), block, strict=True)]
    if any(missing):
        image = sitk.ZeroFluxNeumannPad(image, [0, 0, 0], missing)
    return sitk.BinShrink(image, list(block))
