"""Slices put in order along their normal, and the grid they make. Pure arithmetic.

The normal is the cross product of row and column direction (DICOM PS3.3 C.7.6.2.1.1), and
positions are projected on it. Instance numbers, slice locations and file names are not used:
scanners count in either direction, and archives rename.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillroom.client.intake.headers import SliceHeader

Triple = tuple[float, float, float]
Nine = tuple[float, float, float, float, float, float, float, float, float]

IDENTITY: Nine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
COSINE_TOLERANCE = 1e-3
"""Rows and columns whose cosines miss unit length or a right angle by more are no directions.
Six decimals are usual; three are the worst seen. The directions are made exact afterwards."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices in order.

    Attributes:
        slices: Ordered along the normal, ascending.
        along_mm: Position of each slice along the normal, ``(N,)``, ascending.
        beside_mm: Distance of each slice's first pixel from the normal through that of the
            first slice, ``(N,)``. Zero unless the stack is sheared.
        spacing_mm: Along (x, y, z); z is the mean distance, 0 for a single slice.
        origin_mm: Centre of voxel (0, 0, 0), LPS.
        direction: Row-major; its columns are row, column and normal direction.
    """

    slices: tuple[SliceHeader, ...]
    along_mm: NDArray[np.float64]
    beside_mm: NDArray[np.float64]
    spacing_mm: Triple
    origin_mm: Triple
    direction: Nine

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along (x, y, z)."""
        first = self.slices[0]
        return (first.columns, first.rows, len(self.slices))


def is_placed(header: SliceHeader) -> bool:
    """Whether position, a right-angled orientation and a positive pixel size are all there.

    A file of several frames without functional groups says nothing about where they lie.
    """
    if header.frames > 1 and not header.is_multiframe:
        return False
    if header.position_mm is None or header.orientation is None or header.pixel_mm is None:
        return False
    axes = np.asarray(header.orientation).reshape(2, 3)
    gram = axes @ axes.T
    is_right = bool(np.abs(gram - np.eye(2)).max() <= COSINE_TOLERANCE)
    return is_right and all(0 < mm < 1e3 for mm in header.pixel_mm)


def stack(slices: Sequence[SliceHeader]) -> Stack:
    """Order ``slices`` along the normal of the first one.

    Args:
        slices: At least one; all with ``is_placed``, of one orientation.
    """
    row, column = np.asarray(slices[0].orientation, np.float64).reshape(2, 3)
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    positions = np.asarray([header.position_mm for header in slices], np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along, positions = along[order], positions[order]
    ways = positions - positions[0]
    beside = np.linalg.norm(ways - np.outer(along - along[0], normal), axis=1)
    between = float((along[-1] - along[0]) / max(1, len(along) - 1))
    down, across = slices[0].pixel_mm or (0.0, 0.0)
    return Stack(
        slices=tuple(slices[i] for i in order),
        along_mm=along,
        beside_mm=beside,
        spacing_mm=(float(across), float(down), between),
        origin_mm=_triple(positions[0]),
        direction=_nine(np.column_stack([row, column, normal])),
    )


def extent_mm(size: Sequence[int], spacing_mm: Triple, direction: Nine) -> Triple:
    """Edges of the box along the patient's (x, y, z) that a grid fills, mm."""
    edges = np.asarray(direction).reshape(3, 3) * (np.asarray(size) * np.asarray(spacing_mm))
    return _triple(np.abs(edges).sum(axis=1))


def _triple(values: NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


def _nine(matrix: NDArray[np.float64]) -> Nine:
    a, b, c, d, e, f, g, h, i = (float(v) for v in matrix.ravel())
    return (a, b, c, d, e, f, g, h, i)
