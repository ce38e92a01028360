"""Solids as approximate signed distances on a grid of coordinates: negative inside, millimetres.

Each primitive is only evaluated in a box around it and is ``reach`` everywhere else, which is also
the largest value it returns inside the box. A cropped evaluation therefore equals a dense one, bit
for bit, and everything downstream (blends up to ``reach`` / 1.25 wide, partial volume) may rely on it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]
Vector = NDArray[np.float64]
"""Three numbers, or a stack of them."""
Slices = tuple[slice, slice, slice]

REACH = 16.0
"""Distances beyond this many millimetres are not told apart."""


def vector(*values: float) -> Vector:
    """Three numbers as a vector."""
    return np.asarray(values, np.float64)


def unit(direction: ArrayLike) -> Vector:
    """The direction scaled to length 1."""
    v = np.asarray(direction, np.float64)
    return v / np.linalg.norm(v)


def perpendicular(direction: ArrayLike, axis: Vector) -> Vector:
    """The part of ``direction`` at right angles to the unit vector ``axis``, length 1."""
    v = np.asarray(direction, np.float64)
    return unit(v - axis * (v @ axis))


def curve(knots: Sequence[Vector], count: int) -> Vector:
    """``(count, 3)`` points of a Catmull-Rom spline through ``knots``, ends included."""
    inner = np.stack(list(knots))
    ends = np.concatenate([2 * inner[:1] - inner[1:2], inner, 2 * inner[-1:] - inner[-2:-1]])
    t = np.linspace(0, len(inner) - 1, count)
    i = np.minimum(t.astype(int), len(inner) - 2)
    u = (t - i)[:, None]
    a, b, c, d = (ends[i + k] for k in range(4))
    tangent_in, tangent_out = (c - a) / 2, (d - b) / 2
    # Hermite form: the tangent at a knot is half the chord between its neighbours.
    return (
        (2 * u**3 - 3 * u**2 + 1) * b
        + (u**3 - 2 * u**2 + u) * tangent_in
        + (3 * u**2 - 2 * u**3) * c
        + (u**3 - u**2) * tangent_out
    )


def blend(a: Array, b: Array, width: float) -> Array:
    """Union with a fillet: polynomial smooth minimum, equal to ``min`` where |a - b| >= width."""
    h = np.maximum(width - np.abs(a - b), 0) / width
    return (np.minimum(a, b) - h * h * (width / 4)).astype(np.float32, copy=False)


def without(solid: Array, other: Array, gap: float = 0.0) -> Array:
    """``solid`` minus ``other`` grown by ``gap`` millimetres."""
    return np.maximum(solid, gap - other)


class Space:
    """Primitives evaluated on one set of coordinates.

    Args:
        coordinates: ``(3, D, H, W)`` float32, millimetres (x, y, z) of every voxel.
        voxel_mm: Typical voxel size, for choosing the coarse grid of the boxes.
        cropped: False evaluates everything everywhere; slower, same result.
    """

    def __init__(self, coordinates: Array, voxel_mm: float, *, cropped: bool = True) -> None:
        self.coordinates = coordinates
        self.shape = coordinates.shape[1:]
        self._cropped = cropped
        # A box is at least 2 * reach wide, so a coarse step below that cannot step over one.
        self._step = max(1, min(4, int(10 / voxel_mm)))
        self._coarse = coordinates[:, :: self._step, :: self._step, :: self._step]

    def far(self, reach: float = REACH) -> Array:
        """A volume in which nothing is near."""
        return np.full(self.shape, reach, np.float32)

    def box(self, low: Vector, high: Vector) -> Slices | None:
        """Slices that hold every voxel between two corners, or None when there is none."""
        if not self._cropped:
            return (slice(None), slice(None), slice(None))
        # One coarse step of slack on each side, in voxels and (for the warp) in millimetres.
        inside = np.ones(self._coarse.shape[1:], bool)
        for axis in range(3):
            inside &= (self._coarse[axis] > low[axis] - 2) & (self._coarse[axis] < high[axis] + 2)
        if not inside.any():
            return None
        found: list[slice] = []
        for axis in range(3):
            others = tuple(k for k in range(3) if k != axis)
            hits = np.flatnonzero(inside.any(axis=others))
            first, last = int(hits[0]) - 1, int(hits[-1]) + 1
            found.append(slice(max(0, first * self._step), last * self._step + 1))
        return found[0], found[1], found[2]

    def ellipsoid(
        self,
        centre: Vector,
        radii: tuple[float, float, float],
        frame: Vector | None = None,
        reach: float = REACH,
    ) -> Array:
        """An ellipsoid; ``frame`` holds its axes as rows (the coordinate axes when left out)."""
        out = self.far(reach)
        r = np.asarray(radii, np.float64)
        grown = r * (1 + reach / r.min())
        half = grown if frame is None else np.sqrt(((frame * grown[:, None]) ** 2).sum(0))
        where = self.box(centre - half, centre + half)
        if where is None:
            return out
        x, y, z = (self.coordinates[(k, *where)] - np.float32(centre[k]) for k in range(3))
        if frame is not None:
            f = frame.astype(np.float32)
            x, y, z = (f[k, 0] * x + f[k, 1] * y + f[k, 2] * z for k in range(3))
        scaled = [(v / np.float32(r[k])) for k, v in enumerate((x, y, z))]
        level = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
        slope = np.sqrt(sum((v / np.float32(r[k])) ** 2 for k, v in enumerate(scaled)))
        # First-order distance (level - 1) / |grad level|; never below (level - 1) * min(r).
        distance = level * (level - 1) / np.maximum(slope, np.float32(1e-6))
        out[where] = np.minimum(distance, np.float32(reach))
        return out

    def cylinder(self, centre: tuple[float, float], radii: tuple[float, float]) -> Array:
        """An elliptic cylinder along z, as long as the volume. Not cropped, not clamped."""
        dx = (self.coordinates[0] - np.float32(centre[0])) / np.float32(radii[0])
        dy = (self.coordinates[1] - np.float32(centre[1])) / np.float32(radii[1])
        level = np.sqrt(dx * dx + dy * dy)
        slope = np.sqrt((dx / np.float32(radii[0])) ** 2 + (dy / np.float32(radii[1])) ** 2)
        return level * (level - 1) / np.maximum(slope, np.float32(1e-6))

    def plane(self, point: Vector, normal: Vector) -> Array:
        """Signed distance to a plane, positive on the side of ``normal``. Not clamped."""
        x, y, z = self.coordinates
        a, b, c = (np.float32(v) for v in normal)
        return a * x + b * y + c * z - np.float32(point @ normal)

    def tube(self, points: Vector, radii: ArrayLike, reach: float = REACH) -> Array:
        """A chain of round cones through ``(N, 3)`` points; one radius, or one per point."""
        out = self.far(reach)
        r = np.broadcast_to(np.asarray(radii, np.float64), len(points))
        for start, end, r0, r1 in zip(points, points[1:], r, r[1:], strict=False):
            half = max(r0, r1) + reach
            where = self.box(np.minimum(start, end) - half, np.maximum(start, end) + half)
            if where is None:
                continue
            along = end - start
            d = [self.coordinates[(k, *where)] - np.float32(start[k]) for k in range(3)]
            ray = (along / (along @ along)).astype(np.float32)
            t = np.clip(ray[0] * d[0] + ray[1] * d[1] + ray[2] * d[2], 0, 1)
            for k in range(3):
                d[k] -= t * np.float32(along[k])
            distance = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) - np.float32(r0)
            distance -= t * np.float32(r1 - r0)
            out[where] = np.minimum(out[where], distance)
        return out
