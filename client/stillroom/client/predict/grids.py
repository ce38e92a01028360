"""The working grid of a scan, and the way back to the grid it came on.

A working grid is axis-aligned in LPS (DICOM PS3.3 C.7.6.2) at the study's spacing. Arrays are
(D, H, W) = (z, y, x); indices and millimetres in ``Grid`` are along (x, y, z), as in SimpleITK.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake import geometry
from stillroom.client.intake.resampling import Target, resample_image, target_for

Triple = tuple[float, float, float]
Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First and one-past-last voxel along (x, y, z)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """An axis-aligned LPS grid.

    Attributes:
        size: Voxels along (x, y, z).
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0), LPS.
    """

    size: tuple[int, int, int]
    spacing_mm: Triple
    origin_mm: Triple

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of an array on this grid."""
        return (self.size[2], self.size[1], self.size[0])

    def crop(self, box: Box) -> "Grid":
        """The part of this grid inside ``box``."""
        low, high = box
        size = tuple(b - a for a, b in zip(low, high, strict=True))
        return Grid(_three_ints(size), self.spacing_mm, self.position(low))

    def position(self, index: tuple[float, ...]) -> Triple:
        """Millimetres (LPS) of a continuous index along (x, y, z)."""
        return _three(
            o + i * s for o, i, s in zip(self.origin_mm, index, self.spacing_mm, strict=True)
        )

    def box_around(self, low_mm: Triple, high_mm: Triple) -> Box:
        """Voxels whose centres lie in a box given in mm, cut at the grid's border."""
        low, high = [], []
        for axis in range(3):
            a = (low_mm[axis] - self.origin_mm[axis]) / self.spacing_mm[axis]
            b = (high_mm[axis] - self.origin_mm[axis]) / self.spacing_mm[axis]
            low.append(min(max(math.ceil(a - 1e-6), 0), self.size[axis] - 1))
            high.append(min(max(math.floor(b + 1e-6) + 1, low[-1] + 1), self.size[axis]))
        return _three_ints(low), _three_ints(high)

    def image(self, array: NDArray[Any]) -> sitk.Image:
        """A SimpleITK image of ``array`` (D, H, W) placed on this grid."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        return image


def slices(box: Box) -> tuple[slice, slice, slice]:
    """NumPy index (D, H, W) of a box along (x, y, z)."""
    (x0, y0, z0), (x1, y1, z1) = box
    return (slice(z0, z1), slice(y0, y1), slice(x0, x1))


def working_grid(image: sitk.Image, spacing_mm: Triple) -> Grid:
    """The whole scan on the lattice that its working copy would have in training."""
    target = target_for(geometry.Grid.of(image), spacing_mm)
    assert target is not None  # noqa: S101 - None is for a box outside the scan; there is no box
    return Grid(target.size, target.spacing_mm, target.origin_mm)


def to_grid(image: sitk.Image, grid: Grid) -> NDArray[np.int16]:
    """``image`` on ``grid`` exactly as training saw scans: ``(D, H, W)`` HU, air outside."""
    return resample_image(image, Target(grid.size, grid.spacing_mm, grid.origin_mm))


def corners_mm(image: sitk.Image) -> NDArray[np.float64]:
    """(8, 3) positions (LPS mm) of the corner voxels' centres."""
    ends = [(0, n - 1) for n in image.GetSize()]
    return np.array([image.TransformIndexToPhysicalPoint(c) for c in itertools.product(*ends)])


def restore(
    probabilities: NDArray[np.float16], grid: Grid, image: sitk.Image, *, block_mib: float = 64
) -> NDArray[np.uint8]:
    """The most probable class at every voxel of ``image``.

    Class probabilities are interpolated linearly and compared afterwards, so that a border
    comes out smooth rather than as the blocks of the working grid. Done in slabs of the
    image's own slices: the float arrays in use at a time stay below about ``block_mib``.

    Args:
        probabilities: ``(C, D, H, W)`` of classes 1..C on ``grid``; background is the rest to 1.
        grid: Where ``probabilities`` lie.
        image: Gives the target grid; its values are not read.
        block_mib: Bound on the floats of one slab, in MiB.

    Returns:
        ``(D', H', W')`` with 0 = background and outside ``grid``.
    """
    width, height, depth = image.GetSize()
    result = np.zeros((depth, height, width), np.uint8)
    window = _covered(grid, image)
    if window is None:
        return result
    (x0, y0, z0), (x1, y1, z1) = window
    # Per voxel: interpolated values twice, their sum, the best, the source block, and flags.
    thickness = max(1, int(block_mib * 2**20 / ((x1 - x0) * (y1 - y0) * 4 * 7)))
    for first, last in _runs(z0, z1, thickness):
        target = _block(image, ((x0, y0, first), (x1, y1, last)))
        winner = np.zeros((last - first, y1 - y0, x1 - x0), np.uint8)
        best, total = np.zeros(winner.shape, np.float32), np.zeros(winner.shape, np.float32)
        for number, probability in enumerate(probabilities, start=1):
            value = _interpolated(probability, grid, target)
            total += value
            np.copyto(winner, number, where=value > best)
            np.maximum(best, value, out=best)
        # Background is the rest to 1; on a tie it wins, as the lowest class would.
        winner[1 - total >= best] = 0
        result[first:last, y0:y1, x0:x1] = winner
    return result


def _interpolated(
    source: NDArray[np.float16], grid: Grid, target: sitk.Image
) -> NDArray[np.float32]:
    """``source`` at the voxels of ``target``; only the part of it that matters is converted."""
    corners = corners_mm(target)
    pad = np.array(grid.spacing_mm)
    box = grid.box_around(_three(corners.min(0) - 2 * pad), _three(corners.max(0) + 2 * pad))
    part = grid.crop(box).image(source[slices(box)].astype(np.float32))
    moved = sitk.Resample(part, target, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    # A view would outlive its image.
    return sitk.GetArrayFromImage(moved)


def _covered(grid: Grid, image: sitk.Image) -> Box | None:
    """Voxels of ``image`` that can lie inside ``grid``; None when there are none."""
    ends = [(-0.5, n - 0.5) for n in grid.size]
    indices = np.array(
        [
            image.TransformPhysicalPointToContinuousIndex(grid.position(corner))
            for corner in itertools.product(*ends)
        ]
    )
    size = np.array(image.GetSize())
    low = np.maximum(np.floor(indices.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(indices.max(0)).astype(int) + 1, size)
    if (high <= low).any():
        return None
    return _three_ints(low), _three_ints(high)


def _block(image: sitk.Image, box: Box) -> sitk.Image:
    """An empty image on the part of ``image``'s grid inside ``box``."""
    low, high = box
    block = sitk.Image([b - a for a, b in zip(low, high, strict=True)], sitk.sitkUInt8)
    block.SetSpacing(image.GetSpacing())
    block.SetDirection(image.GetDirection())
    block.SetOrigin(image.TransformIndexToPhysicalPoint(low))
    return block


def _runs(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def _three(values: Any) -> Triple:
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _three_ints(values: Any) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return (x, y, z)
