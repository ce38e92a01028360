"""Where voxels lie in the patient: pure arithmetic on the grid of a volume.

Points are millimetres in LPS (DICOM PS3.3 C.7.6.2.1.1), indices are continuous ``(i, j, k)``
with whole numbers at voxel centres. Arrays are ``(N, 3)`` float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Points = NDArray[np.float64]

EXACT_MM = 1e-3
"""Two positions closer than this are the same one; float32 headers lose about 1e-5 mm."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The lattice of a volume, without its voxels.

    Attributes:
        size: Voxels along (i, j, k).
        origin_mm: Centre of voxel (0, 0, 0), ``(3,)``.
        steps_mm: ``(3, 3)``; column ``a`` is the way from one voxel to the next along axis ``a``.
    """

    size: tuple[int, int, int]
    origin_mm: NDArray[np.float64]
    steps_mm: NDArray[np.float64]

    @classmethod
    def make(
        cls,
        size: Sequence[int],
        spacing_mm: Sequence[float],
        origin_mm: Sequence[float],
        direction: Sequence[float],
    ) -> "Grid":
        """A grid from what image headers say; ``direction`` is row-major as in SimpleITK."""
        i, j, k = (int(n) for n in size)
        cosines = np.asarray(direction, np.float64).reshape(3, 3)
        steps_mm = cosines * np.asarray(spacing_mm, np.float64)
        return cls((i, j, k), np.asarray(origin_mm, np.float64), steps_mm)

    @classmethod
    def of(cls, image: sitk.Image) -> "Grid":
        """The grid of an image, or of an ``ImageFileReader`` that has read its header."""
        return cls.make(
            image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3], _direction(image)
        )

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between voxels along each axis, ``(3,)``."""
        return np.asarray(np.linalg.norm(self.steps_mm, axis=0), np.float64)

    def to_mm(self, indices: Points) -> Points:
        """Positions in mm of continuous indices."""
        return indices @ self.steps_mm.T + self.origin_mm

    def to_index(self, points_mm: Points) -> Points:
        """Continuous indices of positions in mm."""
        return np.asarray(
            np.linalg.solve(self.steps_mm, (points_mm - self.origin_mm).T).T, np.float64
        )

    def corners(self) -> Points:
        """The eight outer corners ``(8, 3)`` in mm: half a voxel beyond the outermost centres."""
        ends = np.asarray(list(product(*((-0.5, n - 0.5) for n in self.size))), np.float64)
        return self.to_mm(ends)

    def holds(self, points_mm: Points) -> NDArray[np.bool_]:
        """``(N,)``: which positions lie in the field of view, outer half voxel included."""
        index = self.to_index(points_mm)
        last = np.asarray(self.size, np.float64) - 1
        return np.asarray(((index >= -0.5) & (index <= last + 0.5)).all(axis=1))


def is_same_grid(a: Grid, b: Grid, tolerance_mm: float = EXACT_MM) -> bool:
    """Whether every voxel of ``a`` lies on the voxel of ``b`` with the same index."""
    return a.size == b.size and bool(np.abs(a.corners() - b.corners()).max() <= tolerance_mm)


def is_same_extent(a: Grid, b: Grid, tolerance_mm: float) -> bool:
    """Whether two grids fill the same part of the patient.

    The order of their corners does not matter: NIfTI converters flip axes of the array but
    leave the anatomy where it was.
    """
    gaps = np.linalg.norm(a.corners()[:, None] - b.corners()[None], axis=-1)  # (8, 8)
    return bool(max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) <= tolerance_mm)


def _direction(image: sitk.Image) -> Sequence[float]:
    """Nine cosines, also of a file with a fourth axis."""
    dimension = round(len(image.GetDirection()) ** 0.5)
    matrix = np.asarray(image.GetDirection(), np.float64).reshape(dimension, dimension)
    return [float(v) for v in matrix[:3, :3].ravel()]
