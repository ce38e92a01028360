"""A cheap look at the whole scan to find the heart, so that the careful look can be at it alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from stillroom.client.predict.grids import Box, Grid, Triple
from stillroom.client.predict.memory import Workspace
from stillroom.client.predict.windows import Sweep, sweep_volume
from stillroom.client.training.device import Device
from stillroom.client.training.targets import largest_component

CELL_MM = 4.0
"""Components are found among cells of about this size: cheap, and blind to stray voxels."""
SMALLEST_ML = 40.0
"""Less foreground in one piece than this is no heart; an adult's is 400 to 1000 ml."""

How = Literal["student", "localiser", "one window", "whole field of view"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the heart was found.

    Attributes:
        how: By which network, or why not at all.
        box_mm: Low and high corner (LPS), margin included; None for the whole field of view.
    """

    how: How
    box_mm: tuple[Triple, Triple] | None


def find_heart(
    network: nn.Module,
    volume: NDArray[np.int16],
    grid: Grid,
    *,
    sweep: Sweep,
    labels: tuple[str, ...],
    device: Device,
    workspace: Workspace,
    on_window: Callable[[], None] = lambda: None,
) -> tuple[Triple, Triple] | None:
    """The box (LPS mm) around the largest connected foreground of ``labels``.

    Args:
        network: The student or a localiser; see ``sweep_volume``.
        volume: ``(D, H, W)`` Hounsfield units on ``grid``.
        grid: Grid of ``volume``.
        sweep: Windows without overlap are enough here.
        labels: Mask labels whose union is the heart.
        device: Where ``network`` is.
        workspace: Gives the running sums.
        on_window: Called after every window.

    Returns:
        None when no piece of ``SMALLEST_ML`` was found.
    """
    cell = tuple(max(1, round(CELL_MM / s)) for s in grid.spacing_mm[::-1])
    found = workspace.zeros(volume.shape, np.bool_)
    for slab in sweep_volume(
        network, volume, sweep, device=device, workspace=workspace, on_window=on_window
    ):
        for label in labels:
            found[slab.start : slab.stop] |= slab.probabilities[label].argmax(0).numpy() > 0
    coarse = _pooled(found, cell)
    workspace.give_back(found)
    piece = largest_component(coarse)
    voxel_ml = math.prod(grid.spacing_mm) / 1000
    if piece is None or int(piece.sum()) * math.prod(cell) * voxel_ml < SMALLEST_ML:
        return None
    index = np.argwhere(piece)
    low = index.min(0) * cell
    high = np.minimum((index.max(0) + 1) * cell, volume.shape) - 1
    low_mm = grid.position(tuple(float(v) for v in low[::-1]))
    high_mm = grid.position(tuple(float(v) for v in high[::-1]))
    return low_mm, high_mm


def at_least(box: Box, size: tuple[int, int, int], window: tuple[int, int, int]) -> Box:
    """``box`` widened to ``window`` (x, y, z) where ``size`` allows: padding knows less than the scan."""
    lows, highs = [], []
    for low, high, limit, wanted in zip(*box, size, window, strict=True):
        missing = max(min(wanted, limit) - (high - low), 0)
        first = min(max(low - missing // 2, 0), limit - (high - low) - missing)
        lows.append(first)
        highs.append(first + (high - low) + missing)
    return (lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])


def _pooled(mask: NDArray[np.bool_], cell: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells of which at least half is set; the last ones are filled up with unset voxels."""
    planes = []
    for first in range(0, mask.shape[0], cell[0]):
        part = mask[first : first + cell[0]].sum(axis=0, dtype=np.uint16)
        ends = [(0, -n % c) for n, c in zip(part.shape, cell[1:], strict=True)]
        part = np.pad(part, ends)
        rows, columns = part.shape[0] // cell[1], part.shape[1] // cell[2]
        planes.append(part.reshape(rows, cell[1], columns, cell[2]).sum(axis=(1, 3)))
    return np.stack(planes) * 2 >= math.prod(cell)


def grown(box_mm: tuple[Triple, Triple], by: float) -> tuple[Triple, Triple]:
    """A box with ``by`` mm added on every side."""
    (x0, y0, z0), (x1, y1, z1) = box_mm
    return (x0 - by, y0 - by, z0 - by), (x1 + by, y1 + by, z1 + by)
