"""The denoiser: a diffusion model of axial slices, and the maps inside it.

Huang et al., arXiv 2402.15216: a U-Net trained as a denoising diffusion model (Ho et al. 2020) on
unlabelled slices, whose backbone then learns from few labels. The publication gives neither T nor the
schedule nor the size; T = 1000 and the linear schedule are those of ddpm-segmentation, on which this
line of work builds. Attention at the deepest level alone and the group sizes are our own choice.
"""

import math

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

from stillroom.common.errors import ConfigError
from stillroom.common.nn.slices import as_slices, as_volumes
from stillroom.common.nn.trunk import Features, widths
from stillroom.common.study import Study

TIMESTEPS = 1000
"""Steps of the forward process; beta rises linearly from 1e-4 to 0.02."""
BLOCKS = 2
"""Residual blocks per level."""
HEAD_WIDTH = 64
"""Channels per attention head at most (guided diffusion)."""
MOST_GROUPS = 32
LEAST_PER_GROUP = 4
"""Channels in a group of GroupNorm: with one, it would forget how bright a slice is."""


class Denoiser(DiffusionModelUNet):
    """Predicts the noise in slices, one image channel in and out.

    Its forward is MONAI's: ``(N, 1, H, W)`` and timesteps ``(N,)`` to noise ``(N, 1, H, W)``. First
    parts of parameter names are the exchange groups: ``conv_in``, ``time_embed``, ``down_blocks``,
    ``middle_block``, ``up_blocks``, ``out``.

    Args:
        channels: Features per level, at least two levels.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        deepest = len(channels) - 1
        super().__init__(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=BLOCKS,
            channels=channels,
            attention_levels=[level == deepest for level in range(len(channels))],
            norm_num_groups=norm_groups(channels),
            num_head_channels=math.gcd(HEAD_WIDTH, channels[-1]),
        )
        self.widths = widths(
            encoder=channels[min(2, deepest)], bottleneck=channels[-1], decoder=channels[0]
        )
        self.schedule = noise_schedule()

    def features(self, x: Tensor, timestep: int = 0, seed: int = 0) -> Features:
        """Maps inside the network for the slices of ``x``, each for itself.

        Args:
            x: ``(B, Cin, D, H, W)``; channel 0 is read.
            timestep: In [0, ``TIMESTEPS``): how much noise is added first. 0: the clean image, of
                which the network is told that nothing was added.
            seed: Of that noise, which is the same for every slice of one size.

        Returns:
            Maps ``(B, C, D, ...)``. ``decoder`` is what the last convolution reads; ``encoder`` has
            stride 4, or the deepest level's where there are fewer.
        """
        clean = as_slices(x[:, :1])
        times = torch.full((len(clean),), timestep, device=x.device)
        hidden = clean
        if timestep:
            plane = shared_noise(clean.shape[2:], seed).to(x.device)
            hidden = self.schedule.add_noise(clean, plane.expand_as(clean), times)
        embedded = self.time_embed(get_timestep_embedding(times, self.block_out_channels[0]))
        hidden = self.conv_in(hidden)
        skips, levels = [hidden], []
        for block in self.down_blocks:
            hidden, passed = block(hidden_states=hidden, temb=embedded)
            skips += passed
            levels.append(passed[BLOCKS - 1])
        hidden = bottleneck = self.middle_block(hidden_states=hidden, temb=embedded)
        for block in self.up_blocks:
            count = len(block.resnets)
            hidden = block(
                hidden_states=hidden, res_hidden_states_list=skips[-count:], temb=embedded
            )
            del skips[-count:]
        norm, activation = self.out[0], self.out[1]
        return Features(
            *(
                as_volumes(one, x.shape[2])
                for one in (levels[min(2, len(levels) - 1)], bottleneck, activation(norm(hidden)))
            )
        )


def noise_schedule() -> DDPMScheduler:
    """The forward process: ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps``."""
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS, schedule="linear_beta", beta_start=1e-4, beta_end=0.02
    )


def shared_noise(shape: torch.Size, seed: int) -> Tensor:
    """Standard normal ``(1, 1, H, W)`` of a seed, drawn on the host: the same on every device."""
    return torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


def norm_groups(channels: tuple[int, ...]) -> int:
    """Groups of GroupNorm: as many as divide every level, and none smaller than a few channels."""
    shared = math.gcd(*channels)
    fits = [
        n for n in range(1, MOST_GROUPS + 1) if shared % n == 0 and shared >= n * LEAST_PER_GROUP
    ]
    return max(fits, default=1)


def build_denoiser(study: Study) -> Denoiser:
    """The study's denoiser with fresh weights.

    Raises:
        ConfigError: The model is no denoiser (STR-102), or the patch does not fit it (STR-106).
    """
    model = study.model["denoiser"]
    if model.arch != "diffusion-unet" or model.channels is None:
        raise ConfigError(
            "In the study file, model.denoiser is not a diffusion-unet.",
            fix='Set arch = "diffusion-unet" and name at least two channels.',
            code="STR-102",
        )
    multiple = 2 ** (len(model.channels) - 1)
    if any(side % multiple or side < 2 * multiple for side in study.volume.patch[:2]):
        raise ConfigError(
            f"The patch {list(study.volume.patch)} does not fit a denoiser of "
            f"{len(model.channels)} levels, which needs sides along x and y that are multiples of "
            f"{multiple} and at least {2 * multiple}.",
            fix="Change volume.patch, or name fewer channels for the denoiser.",
            code="STR-106",
        )
    return Denoiser(model.channels)
