"""Working copies as a stage sees them: on its grid, cropped to the heart, kept warm in memory.

A stage with a grid of its own (a localiser at 6 mm) sees the whole field of view; every other
one sees the box around the heart when the study asks for it and the box is known.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.training.targets import Grid, rasterise
from stillroom.common.study import PointsLabel, Stage, Study

CACHE_BYTES = 4 * 2**30
"""Least recently used cases are forgotten beyond this."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One working copy, ready to learn from or to predict on.

    Attributes:
        id: As in the store.
        grid: Where its voxels lie.
        image: (D, H, W) int16, Hounsfield units. Normalised per patch: half the memory.
        targets: Label type -> (D, H, W) uint8 classes, for label types present.
        condition: (D, H, W) uint8, the second input channel; None when the study has none.
    """

    id: str
    grid: Grid
    image: NDArray[np.int16]
    targets: Mapping[str, NDArray[np.uint8]]
    condition: NDArray[np.uint8] | None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        maps = [*self.targets.values(), *([] if self.condition is None else [self.condition])]
        return self.image.nbytes + sum(one.nbytes for one in maps)


class WorkingSet:
    """The cases of one store through the eyes of one stage.

    Args:
        store: The site's working copies.
        study: Labels, volume and grid.
        spacing_mm: Grid of the stage along (x, y, z).
        whole: Never crop to the heart.
    """

    def __init__(
        self, store: CaseStore, study: Study, *, spacing_mm: Spacing, whole: bool = False
    ) -> None:
        self.store, self.study, self.spacing_mm = store, study, spacing_mm
        self.whole = whole or study.volume.roi == "none"

    @classmethod
    def of_stage(cls, store: CaseStore, study: Study, stage: Stage) -> "WorkingSet":
        """What ``stage`` sees."""
        own = stage.spacing_mm is not None
        return cls(store, study, spacing_mm=study.spacing_of(stage), whole=own)

    def case(self, case_id: str) -> Case:
        """The case, from memory when no file of it changed since."""
        folder = self.store.root / case_id
        stamp = tuple(sorted((e.name, e.stat().st_mtime_ns) for e in os.scandir(folder)))
        view = (self.spacing_mm, self.whole, self.study.volume, *self.study.label.items())
        return _cached((str(folder), *view, stamp), self, case_id)

    def read(self, case_id: str) -> Case:
        """The case, from disk."""
        info = self.store.info(case_id)
        stored = grid_of(info)
        image, grid = self.store.image(case_id), stored
        if not self.whole and info.roi_mm is not None:
            image, grid = crop(image, grid, info.roi_mm, margin_mm=self.study.volume.margin_mm)
        if not np.allclose(grid.spacing_mm, self.spacing_mm, rtol=1e-3):
            image, grid = resample(image, grid, self.spacing_mm)
        targets: dict[str, NDArray[np.uint8]] = {}
        for label in self.study.label:
            classes = self._classes(info, label, stored=stored, grid=grid)
            if classes is not None:
                targets[label] = classes
        condition = None
        if (name := self.study.volume.condition_on) is not None:
            condition = targets.get(name, np.zeros(grid.shape, np.uint8))
        return Case(case_id, grid, image, targets, condition)

    def _classes(
        self, info: CaseInfo, label: str, *, stored: Grid, grid: Grid
    ) -> NDArray[np.uint8] | None:
        """The true label on ``grid``, else a usable pseudo-label, else None."""
        definition = self.study.label[label]
        if isinstance(definition, PointsLabel) and label in info.points:
            return rasterise(
                info.points[label], definition.names, radius_mm=definition.radius_mm, grid=grid
            )
        there = label in info.masks
        classes = self.store.mask(info.id, label) if there else self.store.pseudo(info.id, label)
        return None if classes is None else transfer(classes, stored, grid)


_memory: OrderedDict[tuple[Any, ...], Case] = OrderedDict()


def _cached(key: tuple[Any, ...], working_set: WorkingSet, case_id: str) -> Case:
    if key not in _memory:
        for stale in [known for known in _memory if known[:-1] == key[:-1]]:
            del _memory[stale]
        _memory[key] = working_set.read(case_id)
        while sum(case.nbytes for case in _memory.values()) > CACHE_BYTES and len(_memory) > 1:
            _memory.popitem(last=False)
    _memory.move_to_end(key)
    return _memory[key]


def usable_labels(store: CaseStore, info: CaseInfo, labels: Mapping[str, Any]) -> frozenset[str]:
    """Which of ``labels`` a case may teach: true ones, and complete pseudo-labels not yet expired."""
    usable = info.labels & labels.keys()
    for label in labels.keys() - usable:
        found = store.provenance(info.id, label)
        if found is None or not found.complete:
            continue
        if found.expires_at < time.time():
            store.drop_pseudo(info.id, label)
        else:
            usable |= {label}
    return usable


def grid_of(info: CaseInfo) -> Grid:
    """The grid of a stored case."""
    return Grid(info.shape, info.spacing_mm, info.origin_mm)


def crop(
    image: NDArray[np.int16],
    grid: Grid,
    box_mm: tuple[tuple[float, float, float], tuple[float, float, float]],
    *,
    margin_mm: float,
) -> tuple[NDArray[np.int16], Grid]:
    """The part of ``image`` within ``margin_mm`` of a box (LPS mm); all of it when they are apart."""
    ends = np.sort([grid.index_of(corner) for corner in box_mm], axis=0)
    margin = margin_mm / np.asarray(grid.spacing_mm)[::-1]
    low = np.clip(np.floor(ends[0] - margin), 0, None).astype(int)
    high = np.minimum(np.ceil(ends[1] + margin).astype(int) + 1, grid.shape)
    if np.any(high <= low):
        return image, grid
    part = image[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    d, h, w = part.shape
    return np.ascontiguousarray(part), Grid((d, h, w), grid.spacing_mm, grid.point_at(low))


def resample(
    image: NDArray[np.int16], grid: Grid, spacing_mm: Spacing
) -> tuple[NDArray[np.int16], Grid]:
    """``image`` on a grid of about ``spacing_mm`` with the same outer borders.

    Coarser grids average whole old voxels (no aliasing, places true to half an old voxel), others
    interpolate linearly. The number of voxels is whole, so the new spacing differs from the one
    asked for by less than half a new voxel over the whole side.
    """
    old = np.asarray(grid.spacing_mm)
    counts = np.asarray(grid.shape)[::-1]
    wanted = np.maximum(np.rint(counts * old / np.asarray(spacing_mm)), 1).astype(int)
    new = counts * old / wanted
    mode = "area" if np.all(wanted <= counts) else "trilinear"
    size = tuple(int(n) for n in wanted[::-1])
    source = torch.from_numpy(image.astype(np.float32))[None, None]
    values = interpolate(source, size=size, mode=mode)[0, 0].round().to(torch.int16).numpy()
    x, y, z = (float(v) for v in np.asarray(grid.origin_mm) - old / 2 + new / 2)
    return values, Grid((size[0], size[1], size[2]), tuple(float(s) for s in new), (x, y, z))  # type: ignore[arg-type]


def transfer(classes: NDArray[np.uint8], source: Grid, target: Grid) -> NDArray[np.uint8]:
    """``classes`` on another grid: nearest voxel, background outside."""
    if source == target:
        return classes
    picks, inside = [], []
    for axis in range(3):
        xyz = 2 - axis
        mm = target.origin_mm[xyz] + np.arange(target.shape[axis]) * target.spacing_mm[xyz]
        index = np.rint((mm - source.origin_mm[xyz]) / source.spacing_mm[xyz]).astype(int)
        inside.append((index >= 0) & (index < source.shape[axis]))
        picks.append(np.clip(index, 0, source.shape[axis] - 1))
    moved = classes[np.ix_(*picks)]
    moved[~(inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :])] = 0
    return moved
