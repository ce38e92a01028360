"""Slices drawn from a denoiser, and whether they repeat the site's own. Nothing here leaves the site.

Sampling: DDIM (Song et al. 2021), deterministic. The score is like FID, with a network of the study in the
place of Inception: there are no weights from outside on the premises.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.schedulers import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from stillroom.client.training.cases import Case
from stillroom.client.training.device import Device
from stillroom.client.training.inference import window_starts
from stillroom.client.training.sampling import cut, normalise
from stillroom.common.memorisation import NEAR
from stillroom.common.nn.denoiser import TIMESTEPS, Denoiser
from stillroom.common.study import Volume

BATCH = 16
"""Slices computed at once."""
OVERLAP = 0.5
"""Of the windows that cover a slice larger than the patch."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison of samples with real slices found.

    Attributes:
        copies_by_voxels: Share of samples that are as near as a copy.
        copies_by_features: The same between features.
        fid_like: Fréchet distance of samples' and held-out slices' features.
        training: Slices of the cases that the model may have learned from.
        held_out: Slices of those that it cannot have.
    """

    copies_by_voxels: float
    copies_by_features: float
    fid_like: float
    training: int
    held_out: int


def sample(
    denoiser: Denoiser, count: int, volume: Volume, *, steps: int, seed: int, device: Device
) -> Tensor:
    """Synthetic slices ``(count, 1, H, W)`` in [-1, 1], on the host.

    Args:
        denoiser: On ``device``.
        count: How many.
        volume: Patch along x and y.
        steps: Of the sampler, at most the ``TIMESTEPS`` of the model.
        seed: Equal seeds give equal slices on a CPU.
        device: Where to compute.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS, schedule="linear_beta", beta_start=1e-4, beta_end=0.02
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, 1, volume.patch[1], volume.patch[0]), generator=generator)
    denoiser.eval()
    made = []
    with torch.inference_mode(), device.autocast():
        for start in noise.split(BATCH):
            now = start
            for t in scheduler.timesteps.tolist():
                times = torch.full((len(now),), t, device=device.kind)
                predicted = denoiser(now.to(device.kind), times)
                now, _ = scheduler.step(predicted.float().cpu(), t, now)
            made.append(now)
    return torch.cat(made).clamp(-1, 1)


def real_slices(cases: Iterable[Case], volume: Volume) -> Iterator[Tensor]:
    """Every slice of every case as ``(n, 1, H, W)``: windows over what is larger than the patch."""
    height, width = volume.patch[1], volume.patch[0]
    air = int(volume.hu_window[0])
    for case in cases:
        rows, columns = (
            window_starts(size, side, OVERLAP)
            for size, side in zip(case.image.shape[1:], (height, width), strict=True)
        )
        depth = len(case.image)
        for row in rows:
            for column in columns:
                part = cut(case.image, (0, row, column), (depth, height, width), fill=air)
                yield normalise(torch.from_numpy(part), volume.hu_window)[:, None]


def features_of(encoder: nn.Module, slices: Tensor, *, depth: int, device: Device) -> Tensor:
    """Mean over space of the encoder's deepest map, ``(n, C)`` float64.

    Args:
        encoder: Student, teacher or denoiser on ``device``, in evaluation mode.
        slices: ``(n, 1, H, W)``.
        depth: Copies of a slice on top of each other that the encoder is shown: its patch along z.
        device: Where to compute.
    """
    found = []
    with torch.inference_mode(), device.autocast():
        for part in slices.split(BATCH):
            stacked = part[:, :, None].expand(-1, -1, depth, -1, -1)
            deepest: Tensor = encoder.features(device.move(stacked)).bottleneck  # type: ignore[operator]
            found.append(deepest.double().mean((2, 3, 4)).cpu())
    return torch.cat(found)


def nearest(queries: Tensor, references: Iterable[Tensor]) -> NDArray[np.float64]:
    """Root mean square difference of each query to the nearest reference, ``(n,)``.

    Args:
        queries: ``(n, ...)``.
        references: Blocks ``(m, ...)`` of the same further shape; never held together.
    """
    flat = queries.flatten(1).double()
    best = torch.full((len(flat),), torch.inf, dtype=torch.float64)
    for block in references:
        # By differences, not products: a copy has distance 0, not the rounding of a large square.
        distance = torch.cdist(
            flat, block.flatten(1).double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        best = torch.minimum(best, distance.min(1).values)
    return np.asarray(best / flat.shape[1] ** 0.5)


def share_of_copies(samples: NDArray[np.float64], held_out: NDArray[np.float64]) -> float:
    """Share of samples at least as near to a training slice as the nearest held-out slices are.

    Args:
        samples: Distances of samples to the nearest training slice.
        held_out: The same of slices of patients that the model never saw; ``NEAR`` of them set the mark.
    """
    return float(np.mean(samples <= np.quantile(held_out, NEAR)))


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance between two sets of features ``(n, C)``, each taken to be normal; n >= 2.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)``, by eigenvalues of symmetric matrices.
    """
    means = [x.double().mean(0) for x in (one, other)]
    first, second = (torch.cov(x.double().T).reshape(x.shape[1], -1) for x in (one, other))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    distance = (means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * cross
    return max(float(distance), 0.0)


def compare(
    samples: Tensor,
    training: Iterable[Tensor],
    held_out: Iterable[Tensor],
    *,
    encoder: nn.Module,
    depth: int,
    device: Device,
) -> Findings:
    """Set samples and held-out slices against the slices that the model may have learned from.

    Args:
        samples: ``(n, 1, H, W)``.
        training: Blocks of slices, read once.
        held_out: Blocks of slices.
        encoder: As ``features_of`` takes it.
        depth: As ``features_of`` takes it.
        device: Where to compute.
    """
    unseen = torch.cat(list(held_out))
    queries = torch.cat([samples, unseen])
    maps = features_of(encoder, queries, depth=depth, device=device)
    near = [np.full(len(queries), np.inf) for _ in range(2)]
    seen = 0
    for block in training:
        seen += len(block)
        known = features_of(encoder, block, depth=depth, device=device)
        near[0] = np.minimum(near[0], nearest(queries, [block]))
        near[1] = np.minimum(near[1], nearest(maps, [known]))
    count = len(samples)
    voxels, features = (share_of_copies(d[:count], d[count:]) for d in near)
    return Findings(voxels, features, frechet(maps[:count], maps[count:]), seen, len(unseen))
