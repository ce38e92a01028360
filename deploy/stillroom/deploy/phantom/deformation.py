"""From the scanner's space to the patient's anatomy and back: affine plus cubic B-spline.

Voxels are pulled: each asks which point of the anatomy it shows, ``x = A (w - s) + d(w)``. Points are
pushed through the exact inverse of the same map, with the spline evaluated at the point itself and
not looked up on the voxel grid, so a point and the voxels around it never disagree.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillroom.deploy.phantom.geometry import Array, Vector

KNOTS = 16
"""Control points per axis."""
STEP_MM = 38.0
"""Between control points: organs bend, edges stay smooth."""


def _weights(w: Vector) -> NDArray[np.float64]:
    """``(N, KNOTS)`` cubic B-spline weights at positions ``w`` (mm, lattice centred on 0)."""
    t = np.clip(w / STEP_MM + (KNOTS - 1) / 2, 1, KNOTS - 2 - 1e-6)
    a = np.abs(t[:, None] - np.arange(KNOTS)[None])
    near = 2 / 3 - a**2 + a**3 / 2
    return np.where(a < 1, near, np.clip(2 - a, 0, None) ** 3 / 6)


@dataclass(frozen=True, slots=True)
class Deformation:
    """One patient's size, posture and individual bends.

    Attributes:
        matrix: ``(3, 3)``, scanner to anatomy.
        shift: ``(3,)`` mm, where the anatomy's origin lies in the scanner.
        knots: ``(3, KNOTS, KNOTS, KNOTS)`` mm displacements, indexed (component, z, y, x).
    """

    matrix: Vector
    shift: Vector
    knots: NDArray[np.float64]

    def bends(self, x: Vector, y: Vector, z: Vector) -> Array:
        """``(3, D, H, W)`` float32 displacement on the grid spanned by three axes (mm)."""
        by_z = np.einsum("czyx,kz->ckyx", self.knots, _weights(z), optimize=True)
        by_y = np.einsum("ckyx,jy->ckjx", by_z, _weights(y), optimize=True)
        return (by_y.astype(np.float32) @ _weights(x).T.astype(np.float32)).astype(np.float32)

    def anatomy_grid(self, x: Vector, y: Vector, z: Vector, bends: Array) -> Array:
        """``(3, D, H, W)`` float32: the point of the anatomy that each voxel shows."""
        m = self.matrix.astype(np.float32)
        dx, dy, dz = (v - s for v, s in zip((x, y, z), self.shift, strict=True))
        wx = dx.astype(np.float32)[None, None, :]
        wy = dy.astype(np.float32)[None, :, None]
        wz = dz.astype(np.float32)[:, None, None]
        out = bends.copy()
        for k in range(3):
            out[k] += m[k, 0] * wx + m[k, 1] * wy + m[k, 2] * wz
        return out

    def anatomy_at(self, world: Vector) -> Vector:
        """``(N, 3)`` scanner points to anatomy points."""
        w = np.atleast_2d(world)
        bend = np.einsum(
            "czyx,nz,ny,nx->nc",
            self.knots,
            *(_weights(w[:, k]) for k in (2, 1, 0)),
            optimize=True,
        )
        return (w - self.shift) @ self.matrix.T + bend

    def world_at(self, anatomy: Vector) -> Vector:
        """``(N, 3)`` anatomy points to scanner points, to better than 1e-6 mm.

        Fixed-point iteration; it converges because the bends' slope is well below 1.

        Raises:
            ValueError: The bends fold space, so that no inverse exists.
        """
        target = np.atleast_2d(anatomy)
        inverse = np.linalg.inv(self.matrix)
        w = target @ inverse.T + self.shift
        for _ in range(60):
            error = target - self.anatomy_at(w)
            if np.abs(error).max() < 1e-7:
                return w
            w = w + error @ inverse.T
        raise ValueError("the deformation folds space and has no inverse")


def draw_bends(rng: np.random.Generator, size_mm: float) -> NDArray[np.float64]:
    """Random control displacements; ``size_mm`` is their standard deviation, cut at 2."""
    return np.clip(rng.standard_normal((3, KNOTS, KNOTS, KNOTS)), -2, 2) * size_mm


def rotation(angles: Vector) -> Vector:
    """Rotation matrix about x, then y, then z (radians)."""
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i], turn[i, j] = np.sin(angle), -np.sin(angle)
        out = turn @ out
    return out
