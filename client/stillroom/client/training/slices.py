"""Axial slices as samples of their own, named ``<case>/<number>``."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stillroom.client.training.cases import Case
from stillroom.client.training.sampling import Batch, cut, normalise
from stillroom.client.training.targets import Grid
from stillroom.common.study import Volume

Read = Callable[[str], Case]


class SliceSource:
    """Draws slices without labels and without augmentation: what a scan looks like is to be learned.

    Every case gives one slice, at random, before any gives another; so no scan is read before it is
    drawn, and cases count alike however many slices they have.

    Args:
        ids: Cases to draw from, at least one.
        read: Case by identifier.
        volume: Patch along x and y and window of intensities; air where a scan ends.
        batch_size: Slices per batch.
        seed: Equal seeds give equal batches.
    """

    def __init__(
        self, ids: Sequence[str], read: Read, *, volume: Volume, batch_size: int, seed: int
    ) -> None:
        self._ids, self._read, self._volume = tuple(ids), read, volume
        self._batch_size = batch_size
        self._rng = np.random.default_rng(seed)
        self._queue: list[str] = []

    def draw(self) -> Batch:
        """The next batch, ``x`` ``(B, 1, 1, H, W)``."""
        ids, images = [], []
        for _ in range(self._batch_size):
            if not self._queue:
                self._queue = [self._ids[i] for i in self._rng.permutation(len(self._ids))]
            case = self._read(self._queue.pop())
            number = int(self._rng.integers(len(case.image)))
            ids.append(f"{case.id}/{number}")
            images.append(self._crop(case, number))
        return Batch(torch.stack(images), {}, tuple(ids))

    def _crop(self, case: Case, number: int) -> torch.Tensor:
        height, width = self._volume.patch[1], self._volume.patch[0]
        start = [number]
        for size, side in zip(case.image.shape[1:], (height, width), strict=True):
            room = size - side
            start.append(int(self._rng.integers(room + 1)) if room > 0 else room // 2)
        air = int(self._volume.hu_window[0])
        values = cut(case.image, start, (1, height, width), fill=air)
        return normalise(torch.from_numpy(values), self._volume.hu_window)[None]


def labelled_slices(ids: Sequence[str], read: Read, label: str) -> list[str]:
    """Names of all slices of ``ids`` with at least one voxel of ``label`` that is not background."""
    return [
        f"{case_id}/{number}"
        for case_id in ids
        for number in np.flatnonzero(read(case_id).targets[label].any((1, 2)))
    ]


def slice_of(name: str, read: Read) -> Case:
    """One slice as a case of its own, with what is drawn on it."""
    case_id, _, number = name.rpartition("/")
    case, at = read(case_id), int(number)
    here = slice(at, at + 1)
    _, height, width = case.image.shape
    grid = Grid(
        (1, height, width), case.grid.spacing_mm, case.grid.point_at(np.array([at, 0.0, 0.0]))
    )
    return Case(
        name,
        grid,
        case.image[here],
        {label: classes[here] for label, classes in case.targets.items()},
        None if case.condition is None else case.condition[here],
    )
