"""``pretrain_diffusion``: a denoising diffusion model of every slice a site has.

Huang et al., arXiv 2402.15216; the loss is L_simple of Ho et al. 2020,
``E |eps - f(sqrt(a_t) x + sqrt(1 - a_t) eps, t)|^2`` with t uniform. Labels are never read. A site
counts by the slices that it learned from.
"""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import network
from stillroom.client.recipes.rounds import Learner, TrainingRecipe, arrived
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device
from stillroom.client.training.loader import Batches
from stillroom.client.training.loop import Losses
from stillroom.client.training.sampling import Batch
from stillroom.client.training.slices import SliceSource
from stillroom.common.nn.denoiser import TIMESTEPS, Denoiser
from stillroom.common.nn.slices import as_slices
from stillroom.common.recipes.diffusion import TERM


class PretrainDiffusion(TrainingRecipe):
    """Learns from slices, labelled or not, as if none were."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """None."""
        return ()

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Every training case."""
        return [info.id for info in candidates]

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """The denoiser; timesteps and noise are drawn on the host, from the round's seed."""
        module = network(context.study, context.stage, arrived(context), device)
        if not isinstance(module, Denoiser):
            raise TypeError(f"stage {context.stage.name} has no denoiser")
        generator = torch.Generator().manual_seed(context.round_seed)

        def step(batch: Batch) -> Losses:
            clean = as_slices(batch.x)
            times = torch.randint(TIMESTEPS, (len(clean),), generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            return {TERM: denoising_loss(module, clean, times, noise, device=device)}

        return Learner(module, step)

    @override
    def batches(self, context: RecipeContext, ids: list[str]) -> Batches:
        """Slices of every case."""
        study, stage = context.study, context.stage
        return SliceSource(
            ids,
            WorkingSet.of_stage(context.store, study, stage).case,
            volume=study.volume,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )


def denoising_loss(
    module: Denoiser, clean: Tensor, times: Tensor, noise: Tensor, *, device: Device
) -> Tensor:
    """Mean squared error of the predicted noise, in float32.

    Args:
        module: On ``device``.
        clean: ``(N, 1, H, W)`` in about [-1, 1].
        times: ``(N,)`` int64 in [0, ``TIMESTEPS``).
        noise: Standard normal, shaped as ``clean``.
        device: Where to compute.

    Returns:
        Scalar >= 0; about 1 for a network that predicts 0.
    """
    noisy = module.schedule.add_noise(clean, noise, times)
    with device.autocast():
        predicted = module(noisy.to(device.kind), times.to(device.kind))
    return mse_loss(predicted.float(), noise.to(device.kind))
