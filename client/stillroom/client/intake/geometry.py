"""Where voxels lie in the patient: pure arithmetic on a SimpleITK image's grid.

Points are millimetres in LPS (DICOM PS3.3 C.7.6.2.1.1), indices are continuous ``(i, j, k)``
with whole numbers at voxel centres. Arrays are ``(N, 3)`` float64.
"""

from itertools import product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Points = NDArray[np.float64]

EXACT_MM = 1e-3
"""Two positions closer than this are the same one; float32 headers lose about 1e-5 mm."""


def steps(image: sitk.Image) -> NDArray[np.float64]:
    """``(3, 3)`` matrix whose column ``a`` is the way in mm from one voxel to the next along ``a``."""
    direction = np.asarray(image.GetDirection(), np.float64).reshape(3, 3)
    return direction * np.asarray(image.GetSpacing(), np.float64)


def to_mm(image: sitk.Image, indices: Points) -> Points:
    """Positions in mm of continuous indices."""
    return indices @ steps(image).T + np.asarray(image.GetOrigin())


def to_index(image: sitk.Image, points_mm: Points) -> Points:
    """Continuous indices of positions in mm."""
    return np.linalg.solve(steps(image), (points_mm - np.asarray(image.GetOrigin())).T).T


def corners(image: sitk.Image) -> Points:
    """The eight outer corners ``(8, 3)`` in mm: half a voxel beyond the outermost centres."""
    size = image.GetSize()
    ends = np.asarray(list(product(*((-0.5, n - 0.5) for n in size))), np.float64)
    return to_mm(image, ends)


def is_same_grid(a: sitk.Image, b: sitk.Image, tolerance_mm: float = EXACT_MM) -> bool:
    """Whether every voxel of ``a`` lies on the voxel of ``b`` with the same index."""
    if a.GetSize() != b.GetSize():
        return False
    return bool(np.abs(corners(a) - corners(b)).max() <= tolerance_mm)


def is_same_extent(a: Points, b: Points, tolerance_mm: float) -> bool:
    """Whether two boxes, given by their corners ``(8, 3)``, fill the same part of the patient.

    The order of the corners does not matter: NIfTI converters flip axes of the array but leave
    the anatomy where it was.
    """
    gaps = np.linalg.norm(a[:, None] - b[None], axis=-1)  # (8, 8)
    return bool(max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) <= tolerance_mm)


def is_inside(image: sitk.Image, points_mm: Points, slack_voxels: float = 0.5) -> NDArray[np.bool_]:
    """``(N,)``: which positions lie in the field of view; the outer half voxel belongs to it."""
    index = to_index(image, points_mm)
    last = np.asarray(image.GetSize(), np.float64) - 1
    inside = (index >= -slack_voxels) & (index <= last + slack_voxels)
    return np.asarray(inside.all(axis=1))
