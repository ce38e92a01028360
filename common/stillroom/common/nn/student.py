"""The student: one transformer trunk, one 1x1x1 head per label type.

Two sizes share one interface. ``SwinStudent`` is the trunk of FedKD's student (arXiv 2407.07557,
SwinUNETR with feature size 48); ``LightSwin`` is our own smaller relative for machines without a
GPU. First components of parameter names are the exchange groups: ``encoder``, ``decoder``,
``heads.<label>``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from typing_extensions import override

from stillroom.common.errors import ConfigError
from stillroom.common.study import Model, Study

LIGHT_MULTIPLE = 8
LIGHT_SMALLEST = 16
SWIN_MULTIPLE = 32
GROUP_NORM_BELOW = 64
"""SwinUNETR's bottleneck is one voxel wide at 32, where instance norm has no variance."""


@dataclass(frozen=True, slots=True)
class Features:
    """Maps inside the trunk, for recipes that learn from more than the output.

    Attributes:
        encoder: ``(B, C, D/4, H/4, W/4)``, the encoder at stride 4.
        bottleneck: ``(B, C, ...)``, the deepest map: stride 8 for ``LightSwin``, 32 for ``SwinStudent``.
        decoder: ``(B, C, D, H, W)``, what the heads read.
    """

    encoder: Tensor
    bottleneck: Tensor
    decoder: Tensor


class Student(nn.Module):
    """A trunk with one head per label type.

    Args:
        width: Channels of the decoder's output.
        heads: Label type -> number of outputs, background included.
    """

    def __init__(self, width: int, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({label: nn.Conv3d(width, n, 1) for label, n in heads.items()})

    def features(self, x: Tensor) -> Features:
        """Maps inside the trunk for ``x`` ``(B, Cin, D, H, W)``."""
        raise NotImplementedError

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` per label type for ``x`` ``(B, Cin, D, H, W)``."""
        decoded = self.features(x).decoder
        return {label: head(decoded) for label, head in self.heads.items()}


class LightSwin(Student):
    """Two Swin stages (window 4) in a U shape; 1.1 M parameters at feature size 24.

    Args:
        in_channels: 1, or 2 when conditioned on a label map.
        heads: Label type -> number of outputs, background included.
        feature_size: Width of the first stage; a multiple of 12.
    """

    def __init__(self, in_channels: int, heads: Mapping[str, int], feature_size: int = 24) -> None:
        f, half = feature_size, feature_size // 2
        super().__init__(half, heads)
        self.encoder = nn.ModuleDict(
            {
                "embed": nn.Conv3d(in_channels, f, kernel_size=2, stride=2),
                "swin1": _swin_stage(f, heads=3),
                "swin2": _swin_stage(2 * f, heads=6),
                "skip0": _block(in_channels, half),
                "skip1": _block(f, f),
                "skip2": _block(2 * f, 2 * f),
                "bottom": _block(4 * f, 4 * f),
            }
        )
        self.decoder = nn.ModuleDict(
            {"up2": _up(4 * f, 2 * f), "up1": _up(2 * f, f), "up0": _up(f, half)}
        )

    @override
    def features(self, x: Tensor) -> Features:
        encoder, decoder = self.encoder, self.decoder
        t0 = encoder["embed"](x)
        t1 = encoder["swin1"](t0.contiguous())
        t2 = encoder["swin2"](t1.contiguous())
        stride4 = encoder["skip2"](_channel_norm(t1))
        bottom = encoder["bottom"](_channel_norm(t2))
        z = decoder["up2"](bottom, stride4)
        z = decoder["up1"](z, encoder["skip1"](_channel_norm(t0)))
        z = decoder["up0"](z, encoder["skip0"](x))
        return Features(encoder=stride4, bottleneck=bottom, decoder=z)


class SwinStudent(Student):
    """MONAI's SwinUNETR without its output block; 62 M parameters at feature size 48.

    Args:
        in_channels: 1, or 2 when conditioned on a label map.
        heads: Label type -> number of outputs, background included.
        feature_size: Width of the first stage; a multiple of 12.
        group_norm: Use GroupNorm instead of InstanceNorm, which patches of 32 need.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, int],
        feature_size: int = 48,
        *,
        group_norm: bool = False,
    ) -> None:
        super().__init__(feature_size, heads)
        norm = ("group", {"num_groups": 4}) if group_norm else "instance"
        net = SwinUNETR(in_channels, 1, feature_size=feature_size, norm_name=norm)
        self.encoder = nn.ModuleDict(
            {
                "swin": net.swinViT,
                "skip0": net.encoder1,
                "skip1": net.encoder2,
                "skip2": net.encoder3,
                "skip3": net.encoder4,
                "bottom": net.encoder10,
            }
        )
        self.decoder = nn.ModuleDict(
            {f"up{level - 1}": getattr(net, f"decoder{level}") for level in (5, 4, 3, 2, 1)}
        )

    @override
    def features(self, x: Tensor) -> Features:
        encoder, decoder = self.encoder, self.decoder
        hidden = encoder["swin"](x, normalize=True)
        stride4 = encoder["skip2"](hidden[1])
        bottom = encoder["bottom"](hidden[4])
        z = decoder["up4"](bottom, hidden[3])
        z = decoder["up3"](z, encoder["skip3"](hidden[2]))
        z = decoder["up2"](z, stride4)
        z = decoder["up1"](z, encoder["skip1"](hidden[0]))
        z = decoder["up0"](z, encoder["skip0"](x))
        return Features(encoder=stride4, bottleneck=bottom, decoder=z)


def build_student(study: Study) -> Student:
    """The study's student with fresh weights, one head per label type it keeps.

    Raises:
        ConfigError: The patch does not fit the architecture (STR-106), or the feature size is
            not a multiple of 12 (STR-102).
    """
    model = study.model["student"]
    _check_size(model, study.volume.patch)
    heads = {label: 1 + len(known.classes) for label, known in study.student_labels().items()}
    width = model.feature_size or 0
    if model.arch == "light-swin":
        return LightSwin(study.input_channels, heads, width)
    small = min(study.volume.patch) < GROUP_NORM_BELOW
    return SwinStudent(study.input_channels, heads, width, group_norm=small)


def _check_size(model: Model, patch: tuple[int, int, int]) -> None:
    if model.arch == "dynunet" or not model.feature_size or model.feature_size % 12:
        raise ConfigError(
            "In the study file, model.student is neither light-swin nor swin-unetr with a feature "
            "size that is a multiple of 12.",
            fix="Set arch to light-swin or swin-unetr, and feature_size to 12, 24, 36 or 48.",
            code="STR-102",
        )
    light = model.arch == "light-swin"
    multiple, smallest = (LIGHT_MULTIPLE, LIGHT_SMALLEST) if light else (SWIN_MULTIPLE,) * 2
    if any(side % multiple or side < smallest for side in patch):
        raise ConfigError(
            f"The patch {list(patch)} does not fit {model.arch}, which needs sides that are "
            f"multiples of {multiple} and at least {smallest}.",
            fix="Change volume.patch in the study file.",
            code="STR-106",
        )


def _channel_norm(x: Tensor) -> Tensor:
    """LayerNorm without parameters over the channels of ``(B, C, D, H, W)``."""
    last = x.movedim(1, -1)
    return layer_norm(last, (x.shape[1],)).movedim(-1, 1)


def _swin_stage(dim: int, *, heads: int) -> nn.Module:
    return BasicLayer(
        dim=dim,
        depth=2,
        num_heads=heads,
        window_size=[4, 4, 4],
        drop_path=[0.0, 0.0],
        mlp_ratio=2.0,
        qkv_bias=True,
        downsample=PatchMergingV2,
    )


def _block(width_in: int, width_out: int) -> nn.Module:
    return UnetrBasicBlock(3, width_in, width_out, 3, 1, "instance", res_block=True)


def _up(width_in: int, width_out: int) -> nn.Module:
    return UnetrUpBlock(3, width_in, width_out, 3, 2, "instance", res_block=True)
