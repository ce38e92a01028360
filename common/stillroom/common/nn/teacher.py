"""The CNN teacher of one label type: nnU-Net's plain U-Net, from MONAI's DynUNet.

FedKD (arXiv 2407.07557) uses six stages of 32 to 320 features with strides 1, 2, 2, 2, 2, (2, 2, 1)
and deep supervision at three scales; smaller studies name fewer channels and get neither.
"""

from monai.networks.nets import DynUNet
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.errors import ConfigError
from stillroom.common.study import Study

PAPER_LEVELS = 6
DEEP_SCALES = 2
"""Deep-supervision outputs below full resolution, at the paper's size."""


class Teacher(nn.Module):
    """A U-Net with one output per class of one label type. All of it is the group ``cnn``.

    Args:
        label: The label type it learns.
        outputs: Classes, background included.
        in_channels: 1, or 2 when conditioned on a label map.
        channels: Features per level, at least three levels.
    """

    def __init__(
        self, label: str, outputs: int, *, in_channels: int, channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.label = label
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

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits for ``x`` ``(B, Cin, D, H, W)``.

        Returns:
            ``(B, 1 + classes, D, H, W)`` under the label's name. In training mode at the
            paper's size, ``(B, S, 1 + classes, D, H, W)`` with scale 0 the full one.
        """
        return {self.label: self.cnn(x)}


def build_teacher(study: Study, label_name: str) -> Teacher:
    """A teacher of ``label_name`` with fresh weights.

    Raises:
        ConfigError: The patch does not fit (STR-106), or the model is no CNN (STR-102).
    """
    model = study.model["teacher"]
    if model.arch != "dynunet" or model.channels is None or len(model.channels) < 3:
        raise ConfigError(
            "In the study file, model.teacher is not a dynunet with at least three levels.",
            fix='Set arch = "dynunet" and name at least three channels.',
            code="STR-102",
        )
    multiple = 2 ** (len(model.channels) - 1)
    if any(side % multiple or side < 2 * multiple for side in study.volume.patch):
        raise ConfigError(
            f"The patch {list(study.volume.patch)} does not fit a teacher of "
            f"{len(model.channels)} levels, which needs sides that are multiples of {multiple} "
            f"and at least {2 * multiple}.",
            fix="Change volume.patch, or name fewer channels for the teacher.",
            code="STR-106",
        )
    return Teacher(
        label_name,
        1 + len(study.label[label_name].classes),
        in_channels=study.input_channels,
        channels=model.channels,
    )
