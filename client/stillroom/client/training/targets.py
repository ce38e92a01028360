"""Points as balls of voxels, and back. Pure NumPy.

As in FedKD (arXiv 2407.07557): every point becomes a ball whose class is the point's place in the
study's list, and is found again as the centre of mass of the largest component of its class.
Grid and axes as in ``intake.store``: arrays (D, H, W), millimetres LPS (x, y, z).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Point = tuple[float, float, float]
"""Millimetres (x, y, z) in LPS."""


@dataclass(frozen=True, slots=True)
class Grid:
    """An axis-aligned voxel grid.

    Attributes:
        shape: (D, H, W).
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0), LPS.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: Point

    def index_of(self, point: Point) -> NDArray[np.float64]:
        """Continuous index (k, j, i) of a point."""
        mm = np.asarray(point) - np.asarray(self.origin_mm)
        return (mm / np.asarray(self.spacing_mm))[::-1]

    def point_at(self, index: NDArray[np.floating]) -> Point:
        """Millimetres of a continuous index (k, j, i)."""
        mm = index[::-1] * np.asarray(self.spacing_mm) + np.asarray(self.origin_mm)
        return (float(mm[0]), float(mm[1]), float(mm[2]))


def rasterise(
    points: Mapping[str, Point | None],
    names: tuple[str, ...],
    *,
    radius_mm: float,
    grid: Grid,
) -> NDArray[np.uint8]:
    """Balls around ``points`` as classes ``1 + names.index(name)``; (D, H, W).

    Where balls overlap the nearer point wins, the earlier one at equal distance. A ball that
    holds no voxel centre takes the voxel nearest to its point. Points that are None, unknown to
    ``names`` or outside the grid leave no trace.
    """
    target = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, np.inf, np.float32)
    spacing = np.asarray(grid.spacing_mm)[::-1]
    for number, name in enumerate(names, start=1):
        point = points.get(name)
        if point is None:
            continue
        centre = grid.index_of(point)
        if np.any(centre < -0.5) or np.any(centre > np.asarray(grid.shape) - 0.5):
            continue
        box, distance = _distances(centre, radius_mm, spacing, grid.shape)
        inside = (distance <= max(radius_mm, float(distance.min()))) & (distance < nearest[box])
        target[box][inside] = number
        nearest[box][inside] = distance[inside]
    return target


def _distances(
    centre: NDArray[np.float64],
    radius_mm: float,
    spacing: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
    """The voxels that a ball can touch, and their distances from its centre in mm."""
    low = np.maximum(np.floor(centre - radius_mm / spacing), 0).astype(int)
    high = np.minimum(np.ceil(centre + radius_mm / spacing) + 1, shape).astype(int)
    axes = [
        ((np.arange(a, b) - c) * step) ** 2
        for a, b, c, step in zip(low, high, centre, spacing, strict=True)
    ]
    squared = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return (box[0], box[1], box[2]), np.sqrt(squared).astype(np.float32)


def decode_mask(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Most probable class per voxel, (D, H, W), of ``(C, D, H, W)``."""
    return probabilities.argmax(0).astype(np.uint8)


def decode_points(
    probabilities: NDArray[np.floating], names: tuple[str, ...], *, grid: Grid
) -> dict[str, Point | None]:
    """Points of ``(1 + names, D, H, W)``: None for a class that no voxel is most probable for.

    Per class, the largest connected component (26 neighbours) of the most probable class, then
    its centre of mass weighted by the class's probability.
    """
    classes = decode_mask(probabilities)
    found: dict[str, Point | None] = {}
    for number, name in enumerate(names, start=1):
        component = largest_component(classes == number)
        if component is None:
            found[name] = None
            continue
        weight = probabilities[number][component].astype(np.float64)
        index = np.argwhere(component)
        found[name] = grid.point_at((index * weight[:, None]).sum(0) / weight.sum())
    return found


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The largest connected part (26 neighbours) of ``mask``; None when it is empty."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        return None
    if count == 1:
        return mask
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return np.asarray(parts == int(sizes.argmax()))


def missing_classes(classes: NDArray[np.uint8], count: int) -> int:
    """How many of the classes 1..count have no voxel."""
    return count - int(np.count_nonzero(np.bincount(classes.reshape(-1), minlength=count + 1)[1:]))
