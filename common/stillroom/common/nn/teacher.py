"""The CNN teacher of one label type: nnU-Net's plain U-Net, from MONAI's DynUNet.

FedKD (arXiv 2407.07557) uses six stages of 32 to 320 features with strides 1, 2, 2, 2, 2, (2, 2, 1)
and deep supervision at three scales; smaller studies name fewer channels and get neither.
"""

from monai.networks.nets import DynUNet
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.errors import ConfigError
from stillroom.common.nn.lone_patch import quick_on_lone_patches
from stillroom.common.nn.pocket import SliceTeacher, least_side
from stillroom.common.nn.trunk import Features, widths
from stillroom.common.study import Study

PAPER_LEVELS = 6
DEEP_SCALES = 2
"""Deep-supervision outputs below full resolution, at the paper's size."""


class Teacher(nn.Module):
    """A U-Net with one output per class of one label type. All but reconstruction is group ``cnn``.

    Args:
        label: The label type it learns.
        outputs: Classes, background included.
        in_channels: 1, or 2 when conditioned on a label map.
        channels: Features per level, at least three levels.
        restores: Channels of the input that one more 1x1x1 convolution, group ``reconstruction``,
            makes again from the decoder's map; 0 for none. The original (arXiv 2406.03173) has a
            whole second decoder, as ``SliceTeacher`` does; in three dimensions that would double
            what travels, so one layer is our own choice.
    """

    def __init__(
        self,
        label: str,
        outputs: int,
        *,
        in_channels: int,
        channels: tuple[int, ...],
        restores: int = 0,
    ) -> None:
        super().__init__()
        self.label = label
        self.widths = widths(encoder=channels[2], bottleneck=channels[-1], decoder=channels[0])
        strides: list[int | tuple[int, int, int]] = [1, *(2 for _ in channels[1:])]
        self.deep = len(channels) >= PAPER_LEVELS
        if self.deep:
            strides[-1] = (2, 2, 1)
        self.cnn = DynUNet(
            3,
            in_channels,
            outputs,
            kernel_size=[3] * len(channels),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(channels),
            dropout=0.2 if self.deep else None,
            norm_name=("instance", {"affine": True}),
            deep_supervision=self.deep,
            deep_supr_num=DEEP_SCALES if self.deep else 1,
        )
        self.reconstruction = nn.Conv3d(channels[0], restores, 1) if restores else None
        quick_on_lone_patches(self)

    def features(self, x: Tensor) -> Features:
        """Maps inside the network for ``x`` ``(B, Cin, D, H, W)``."""
        found = [self.cnn.input_block(x)]
        for level in (*self.cnn.downsamples, self.cnn.bottleneck):
            found.append(level(found[-1]))
        z = found[-1]
        for level, skip in zip(self.cnn.upsamples, found[-2::-1], strict=True):
            z = level(z, skip)
        return Features(encoder=found[2], bottleneck=found[-1], decoder=z)

    def logits(self, features: Features) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` under the label's name, at full resolution alone."""
        return {self.label: self.cnn.output_block(features.decoder)}

    def restored(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What ``forward`` gives, and the first channels of ``x`` made again from the decoder's map.

        Raises:
            ValueError: Built without reconstruction.
        """
        if self.reconstruction is None:
            raise ValueError("this teacher was built without a reconstruction head")
        seen: list[Tensor] = []
        # What the output block reads; DynUNet's own forward keeps the scales of deep supervision.
        with self.cnn.output_block.register_forward_pre_hook(
            lambda _, given: seen.append(given[0])
        ):
            logits = self(x)
        return logits, self.reconstruction(seen[0])

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits for ``x`` ``(B, Cin, D, H, W)``.

        Returns:
            ``(B, 1 + classes, D, H, W)`` under the label's name. In training mode at the
            paper's size, ``(B, S, 1 + classes, D, H, W)`` with scale 0 the full one.
        """
        return {self.label: self.cnn(x)}


def build_teacher(
    study: Study, label_name: str, *, reconstruction: bool = False
) -> Teacher | SliceTeacher:
    """A teacher of ``label_name`` with fresh weights.

    Args:
        study: Names its architecture.
        label_name: A label type drawn in voxels.
        reconstruction: With a head that makes the image again (not a label map beside it).

    Raises:
        ConfigError: The patch does not fit (STR-106), or the model is no CNN (STR-102).
    """
    model = study.model["teacher"]
    flat = model.arch == "slice-unet"
    if model.arch not in {"dynunet", "slice-unet"} or len(model.channels or ()) < 3:
        raise ConfigError(
            "In the study file, model.teacher is not a dynunet or slice-unet with at least three levels.",
            fix='Set arch = "dynunet" (volumes) or "slice-unet" (slices) and name at least three channels.',
            code="STR-102",
        )
    channels = model.channels or ()
    multiple, smallest = least_side(channels)
    patch = study.volume.patch
    if any(side % multiple or side < smallest for side in (patch[:2] if flat else patch)):
        raise ConfigError(
            f"The patch {list(patch)} does not fit a teacher of {len(channels)} levels, which needs "
            f"sides that are multiples of {multiple} and at least {smallest}"
            f"{', along x and y' if flat else ''}.",
            fix="Change volume.patch, or name fewer channels for the teacher.",
            code="STR-106",
        )
    return (SliceTeacher if flat else Teacher)(
        label_name,
        1 + len(study.label[label_name].classes),
        in_channels=study.input_channels,
        channels=channels,
        restores=int(reconstruction),
    )
