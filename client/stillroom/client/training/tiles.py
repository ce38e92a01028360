"""Scans as tiles: windows of them for guessing, bags of them for classifying.

Tiles lie on a grid that covers the working copy (the heart's box where it is known) and are not
augmented: a single epoch sees every window once.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from stillroom.client.training.cases import Case
from stillroom.client.training.device import BF16_SIDE, Device
from stillroom.client.training.inference import window_starts
from stillroom.client.training.losses import Target
from stillroom.client.training.sampling import Batch, cut, normalise
from stillroom.common.study import Volume

Index = tuple[int, int, int]
"""(D, H, W)."""


def covering(shape: Index, size: Index) -> list[Index]:
    """First voxels of the pieces of ``size`` that cover ``shape``, evenly spread, in order."""
    axes = [window_starts(n, side, 0.0) for n, side in zip(shape, size, strict=True)]
    return list(itertools.product(*axes))  # type: ignore[arg-type]


def piece(case: Case, start: Index, size: Index, volume: Volume) -> Tensor:
    """Network input ``(Cin, *size)`` at ``start``; the window's lower end where the scan ends."""
    hu = torch.from_numpy(cut(case.image, start, size, fill=int(volume.hu_window[0])))
    channels = [normalise(hu, volume.hu_window)]
    if case.condition is not None:
        channels.append(torch.from_numpy(cut(case.condition, start, size, fill=0)).float())
    return torch.stack(channels)


def split(window: Tensor, counts: Index) -> Tensor:
    """``(Cin, D, H, W)`` as tiles ``(N, Cin, d, h, w)``, x fastest.

    Args:
        window: Sides that are multiples of ``counts``.
        counts: Tiles along (D, H, W).
    """
    cin = window.shape[0]
    d, h, w = (n // c for n, c in zip(window.shape[1:], counts, strict=True))
    a, b, c = counts
    cells = window.reshape(cin, a, d, b, h, c, w).permute(1, 3, 5, 0, 2, 4, 6)
    return cells.reshape(a * b * c, cin, d, h, w)


def for_tiles(device: Device, side: int) -> Device:
    """``device``, in fp32 where a CPU's bf16 would not repeat: see ``device.BF16_SIDE``."""
    return replace(device, bf16=device.bf16 and (device.kind == "cuda" or side >= BF16_SIDE))


AT_ONCE = 32
"""Tiles of one forward pass when all of a scan are read."""


@dataclass(frozen=True, slots=True)
class Windows(Batch):
    """Windows of N tiles, ``x`` ``(B * N, Cin, d, h, w)``, identifiers ``<case>/<window>``.

    Attributes:
        hidden: ``(B, N)`` bool: the encoder must not see these.
    """

    hidden: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Bags(Batch):
    """Bags one after the other, a case each: ``x`` ``(sum of sizes, ...)``, tiles or their vectors.

    Attributes:
        sizes: Tiles of each bag.
    """

    sizes: tuple[int, ...] = ()


class WindowSource:
    """Draws windows: each of every case once, in random order, before any comes again.

    Args:
        ids: Cases.
        read: Case by identifier.
        volume: Window of intensities.
        counts: Tiles along (D, H, W).
        tile: Of one tile.
        hidden: Tiles of a window that are hidden.
        batch_size: Windows of a batch.
        seed: Equal seeds give equal batches.
    """

    def __init__(
        self,
        ids: Sequence[str],
        read: Callable[[str], Case],
        *,
        volume: Volume,
        counts: Index,
        tile: Index,
        hidden: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self._read, self._volume, self._counts = read, volume, counts
        self._hidden, self._batch_size = hidden, batch_size
        self._rng = np.random.default_rng(seed)
        d, h, w = (side * count for side, count in zip(tile, counts, strict=True))
        self._size: Index = (d, h, w)
        self._all = [
            (case_id, number, start)
            for case_id in ids
            for number, start in enumerate(covering(read(case_id).grid.shape, self._size))
        ]
        self._queue: list[int] = []

    def __len__(self) -> int:
        """Windows of an epoch."""
        return len(self._all)

    def draw(self) -> Windows:
        """The next batch."""
        ids, tiles, masks = [], [], []
        for _ in range(self._batch_size):
            if not self._queue:
                self._queue = self._rng.permutation(len(self._all)).tolist()
            case_id, number, start = self._all[self._queue.pop()]
            window = piece(self._read(case_id), start, self._size, self._volume)
            tiles.append(split(window, self._counts))
            mask = torch.zeros(len(tiles[-1]), dtype=torch.bool)
            mask[self._rng.permutation(len(mask))[: self._hidden]] = True
            masks.append(mask)
            ids.append(f"{case_id}/{number}")
        return Windows(torch.cat(tiles), {}, tuple(ids), torch.stack(masks))


Look = Callable[[Case, Sequence[int]], Tensor]
"""Some tiles of a case, by their numbers in ``covering``: ``(T, Cin, d, h, w)``, or vectors of them."""


def pixels(tile: Index, volume: Volume) -> Look:
    """Tiles as they are."""

    def look(case: Case, chosen: Sequence[int]) -> Tensor:
        starts = covering(case.grid.shape, tile)
        return torch.stack([piece(case, starts[i], tile, volume) for i in chosen])

    return look


class Vectors:
    """Vectors of tiles by a network that does not change: each scan is read once and remembered.

    Args:
        tile: Of one tile.
        volume: Window of intensities.
        extract: Tiles -> vectors ``(T, C)``.
    """

    def __init__(self, tile: Index, volume: Volume, extract: Callable[[Tensor], Tensor]) -> None:
        self._tile, self._extract, self._pixels = tile, extract, pixels(tile, volume)
        self._known: dict[str, Tensor] = {}

    def __call__(self, case: Case, chosen: Sequence[int]) -> Tensor:
        """``(T, C)`` of the tiles with these numbers."""
        if case.id not in self._known:
            every = range(len(covering(case.grid.shape, self._tile)))
            parts = [
                self._extract(self._pixels(case, every[first : first + AT_ONCE])).cpu()
                for first in range(0, len(every), AT_ONCE)
            ]
            self._known[case.id] = torch.cat(parts)
        return self._known[case.id][list(chosen)]


class BagSource:
    """Draws bags: every case once, in random order, before any comes again.

    Args:
        classes: Case -> class.
        label: Whose classes they are.
        read: Case by identifier.
        look: Tiles of a case by their numbers in ``covering``, or vectors of them.
        tile: Of one tile.
        most: Tiles of a bag; a random choice where a scan has more.
        batch_size: Bags of a batch.
        seed: Equal seeds give equal batches.
    """

    def __init__(
        self,
        classes: dict[str, int],
        label: str,
        read: Callable[[str], Case],
        *,
        look: Look,
        tile: Index,
        most: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self._classes, self._label, self._read = classes, label, read
        self._look, self._tile, self._most, self._batch_size = look, tile, most, batch_size
        self._rng = np.random.default_rng(seed)
        self._queue: list[str] = []

    def draw(self) -> Bags:
        """The next batch."""
        ids, bags = [], []
        for _ in range(self._batch_size):
            if not self._queue:
                known = sorted(self._classes)
                self._queue = [known[i] for i in self._rng.permutation(len(known))]
            case = self._read(self._queue.pop())
            count = len(covering(case.grid.shape, self._tile))
            bags.append(self._look(case, self._rng.permutation(count)[: self._most].tolist()))
            ids.append(case.id)
        truth = torch.tensor([self._classes[one] for one in ids])
        targets = {self._label: Target(torch.arange(len(ids)), truth)}
        return Bags(torch.cat(bags), targets, tuple(ids), tuple(len(bag) for bag in bags))
