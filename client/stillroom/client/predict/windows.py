"""A network swept over a volume in overlapping windows, slab by slab.

Windows follow one another along z; as soon as no further window touches a slice its averaged
logits are final and leave as a ``Slab``. So the logits in memory are those of one window's
thickness, never of the whole volume. Positions, Gaussian weights and averaging of logits are
those of MONAI's ``sliding_window_inference`` (so the MONAI Bundle of a release gives the
same label map); what differs is where the sums live.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillroom.client.predict.memory import Workspace
from stillroom.client.training.device import Device
from stillroom.client.training.sampling import normalise

Shape = tuple[int, int, int]

THIN_BYTES = 2**24
"""Logits turned into probabilities at a time; a few temporaries of this size come with it."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Finished slices of a sweep.

    Attributes:
        start: First slice.
        stop: One past the last.
        probabilities: Label -> ``(1 + C, stop - start, H, W)`` float32, sums to 1 over classes.
    """

    start: int
    stop: int
    probabilities: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Sweep:
    """How a network is moved over a volume.

    Attributes:
        window: (D, H, W) voxels.
        overlap: Share of a window that the next one covers again, in [0, 1).
        low, high: Hounsfield units that become -1 and 1.
        classes: Label -> number of channels (1 + C) of its head.
        is_conditioned: Whether the network has a second input channel.
    """

    window: Shape
    overlap: float
    low: float
    high: float
    classes: dict[str, int]
    is_conditioned: bool = False

    def starts(self, shape: Shape) -> list[list[int]]:
        """First voxel of every window along each axis of ``shape`` (at least the window's)."""
        found = []
        for size, window in zip(shape, self.window, strict=True):
            step = window if window == size else max(int(window * (1 - self.overlap)), 1)
            firsts = list(range(0, size - window + 1, step))
            if firsts[-1] + window < size:
                firsts.append(size - window)
            found.append(firsts)
        return found

    def count(self, shape: Shape) -> int:
        """Windows needed for a volume of ``shape``."""
        padded = tuple(max(a, b) for a, b in zip(shape, self.window, strict=True))
        z, y, x = self.starts(padded)  # type: ignore[arg-type]
        return len(z) * len(y) * len(x)


def slab_bytes(sweep: Sweep, shape: Shape) -> int:
    """Bytes of the running sums for a volume of ``shape``: the bound that ``sweep_volume`` keeps."""
    _, height, width = (max(a, b) for a, b in zip(shape, sweep.window, strict=True))
    return 4 * (sum(sweep.classes.values()) + 1) * sweep.window[0] * height * width


def sweep_volume(
    network: nn.Module,
    volume: NDArray[np.int16],
    sweep: Sweep,
    *,
    device: Device,
    workspace: Workspace,
    condition: NDArray[np.uint8] | None = None,
    on_window: Callable[[], None] = lambda: None,
) -> Iterator[Slab]:
    """Yield averaged class probabilities of ``volume``, a few finished slices at a time.

    Args:
        network: In evaluation mode, on ``device``; maps ``(1, Cin, D, H, W)`` to a dict of
            logits ``(1, 1 + C, D, H, W)`` per label.
        volume: ``(D, H, W)`` Hounsfield units; smaller than a window is padded with ``low``.
        sweep: Window, overlap, intensity range, channels.
        device: Where and how precisely the network runs.
        workspace: Gives the running sums, ``slab_bytes`` of them.
        condition: Second input channel, ``(D, H, W)`` raw label values; zeros when left out.
        on_window: Called after every window.
    """
    pads = [max(w - n, 0) for w, n in zip(sweep.window, volume.shape, strict=True)]
    before = [pad // 2 for pad in pads]
    if any(pads):
        ends = [(a, pad - a) for a, pad in zip(before, pads, strict=True)]
        volume = np.pad(volume, ends, constant_values=int(sweep.low))
        condition = None if condition is None else np.pad(condition, ends)
    depth, height, width = volume.shape
    zs, ys, xs = sweep.starts(volume.shape)
    weight = gaussian(sweep.window)
    channels = sum(sweep.classes.values())
    held = workspace.zeros((channels + 1, sweep.window[0], height, width), np.float32)
    sums = torch.from_numpy(held)
    for z, following in zip(zs, [*zs[1:], depth], strict=True):
        for y, x in itertools.product(ys, xs):
            place = tuple(slice(a, a + n) for a, n in zip((z, y, x), sweep.window, strict=True))
            logits = _logits(network, volume, condition, place, sweep, device)
            _add(sums[:, :, place[1], place[2]], logits, weight)
            on_window()
        done = following - z
        yield from _finished(sums[:, :done], z, sweep, before, pads)
        _shift(sums, done)
    workspace.give_back(held)


def gaussian(window: Shape) -> Tensor:
    """Importance of each voxel of a window: a Gaussian of sigma = side / 8, at least 1e-3."""
    axes = []
    for side in window:
        x = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        axes.append(torch.exp(-0.5 * (x / (0.125 * side)) ** 2))
    z, y, x = axes
    product = z[:, None, None] * y[None, :, None] * x[None, None, :]
    return product.clamp(min=max(float(product.min()), 1e-3))


def _logits(
    network: nn.Module,
    volume: NDArray[np.int16],
    condition: NDArray[np.uint8] | None,
    place: tuple[slice, ...],
    sweep: Sweep,
    device: Device,
) -> Tensor:
    """(K, d, h, w) float32 logits of one window, all labels one after the other."""
    image = torch.from_numpy(volume[place].astype(np.float32))
    inputs = [normalise(image, (sweep.low, sweep.high))]
    if condition is not None:
        inputs.append(torch.from_numpy(condition[place].astype(np.float32)))
    elif sweep.is_conditioned:
        inputs.append(torch.zeros(sweep.window))
    with torch.inference_mode(), device.autocast():
        outputs = network(device.move(torch.stack(inputs)[None]))
    return torch.cat([outputs[label][0].float().cpu() for label in sweep.classes])


def _add(sums: Tensor, logits: Tensor, weight: Tensor) -> None:
    # In place: a temporary of the logits' size would double what one window needs.
    sums[:-1] += logits.mul_(weight)
    sums[-1] += weight


def _shift(sums: Tensor, done: int) -> None:
    """Move what is not finished to the front, slice by slice: a copy of it all would be as large again."""
    depth = sums.shape[1]
    for slice_ in range(done, depth):
        sums[:, slice_ - done] = sums[:, slice_]
    sums[:, depth - done :] = 0


def _finished(
    sums: Tensor, z: int, sweep: Sweep, before: list[int], pads: list[int]
) -> Iterator[Slab]:
    """The part of finished sums that lies in the volume proper, as probabilities, in thin slabs."""
    _, done, height, width = sums.shape
    first = max(z, before[0])
    # Padding only happens when one window spans the axis, so the last slices are in this slab.
    last = z + done - (pads[0] - before[0] if pads[0] else 0)
    rows = slice(before[1], height - (pads[1] - before[1]))
    columns = slice(before[2], width - (pads[2] - before[2]))
    thickness = max(1, THIN_BYTES // (4 * sums.shape[0] * height * width))
    for start in range(first, last, thickness):
        stop = min(start + thickness, last)
        inner = sums[:, start - z : stop - z, rows, columns]
        probabilities, channel = {}, 0
        for label, count in sweep.classes.items():
            mean = inner[channel : channel + count] / inner[-1]
            probabilities[label] = mean.softmax(dim=0)
            channel += count
        yield Slab(start - before[0], stop - before[0], probabilities)
