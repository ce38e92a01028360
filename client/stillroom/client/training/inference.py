"""Prediction over a whole working copy, window by window.

A lean window of our own rather than MONAI's: several outputs at once, probabilities averaged
with a Gaussian (as nnU-Net does), and results kept on the host, so that the device holds one
batch of windows whatever the size of the scan.
"""

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillroom.client.training.cases import Case
from stillroom.client.training.device import Device
from stillroom.client.training.sampling import cut, normalise
from stillroom.common.study import Volume

OVERLAP = 0.25
"""Least share of a window's side that its neighbour covers too."""
SIGMA = 0.125
"""Width of the Gaussian as a share of the side (nnU-Net's)."""


def predict(
    module: nn.Module,
    case: Case,
    *,
    volume: Volume,
    device: Device,
    overlap: float = OVERLAP,
    batch_size: int = 4,
) -> dict[str, NDArray[np.float32]]:
    """Class probabilities ``(1 + classes, D, H, W)`` per label type, on the case's grid.

    Args:
        module: Network whose forward gives logits per label type; put into evaluation mode.
        case: What to predict on.
        volume: Window (its patch) and range of intensities.
        device: Where ``module`` is.
        overlap: In [0, 1).
        batch_size: Windows per forward pass.
    """
    module.eval()
    patch = volume.patch[::-1]
    places = list(itertools.product(*map(window_starts, case.image.shape, patch, (overlap,) * 3)))
    weight = _gaussian(patch)
    sums: dict[str, Tensor] = {}
    norm = torch.zeros(case.image.shape)
    with torch.inference_mode(), device.autocast():
        for first in range(0, len(places), batch_size):
            batch = places[first : first + batch_size]
            x = torch.stack([_window(case, start, volume) for start in batch])
            for label, logits in module(device.move(x)).items():
                probability = logits.float().softmax(1).cpu()
                if label not in sums:
                    sums[label] = torch.zeros((logits.shape[1], *case.image.shape))
                for start, values in zip(batch, probability, strict=True):
                    place, part = _overlapping(start, patch, case.image.shape)
                    sums[label][(slice(None), *place)] += (values * weight)[(slice(None), *part)]
            for start in batch:
                place, part = _overlapping(start, patch, case.image.shape)
                norm[place] += weight[part]
        return {label: (total / norm).numpy() for label, total in sums.items()}


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of evenly spread windows that cover ``size`` voxels; one when it fits."""
    if size <= window:
        return [(size - window) // 2]
    count = min(math.ceil((size - window) / (window * (1 - overlap))), size - window) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def _window(case: Case, start: tuple[int, ...], volume: Volume) -> Tensor:
    """Network input ``(Cin, D, H, W)`` at ``start``; air where the scan ends."""
    size = volume.patch[::-1]
    hu = torch.from_numpy(cut(case.image, start, size, fill=int(volume.hu_window[0])))
    channels = [normalise(hu, volume.hu_window)]
    if case.condition is not None:
        channels.append(torch.from_numpy(cut(case.condition, start, size, fill=0)).float())
    return torch.stack(channels)


def _overlapping(
    start: tuple[int, ...], patch: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a window lies in the volume, and which part of the window that is."""
    low = [max(first, 0) for first in start]
    high = [min(first + p, n) for first, p, n in zip(start, patch, shape, strict=True)]
    place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    return place, part


def _gaussian(patch: tuple[int, ...]) -> Tensor:
    """Weight of a window's voxels, 1 at the centre and never 0."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (SIGMA * n)) ** 2) for n in patch]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return weight.clamp(min=1e-4)
