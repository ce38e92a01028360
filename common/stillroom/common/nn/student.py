"""The student: one transformer trunk, one 1x1x1 head per label type.

Two sizes share one interface. ``SwinStudent`` is the trunk of FedKD's student (arXiv 2407.07557,
SwinUNETR with feature size 48); ``LightSwin`` is our own smaller relative for machines without a
GPU. First components of parameter names are the exchange groups: ``encoder``, ``decoder``,
``heads.<label>``.
"""

from collections.abc import Mapping

from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from typing_extensions import override

from stillroom.common.errors import ConfigError
from stillroom.common.nn.lone_patch import quick_on_lone_patches
from stillroom.common.nn.pocket import PocketUnet, least_side
from stillroom.common.nn.trunk import Features, Student, widths
from stillroom.common.study import Model, Study

LIGHT_MULTIPLE = 8
LIGHT_SMALLEST = 16
SWIN_MULTIPLE = 32
GROUP_NORM_BELOW = 64
"""SwinUNETR's bottleneck is one voxel wide at 32, where instance norm has no variance."""


__all__ = ["Features", "LightSwin", "Student", "SwinStudent", "build_student"]


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
        self.widths = widths(encoder=2 * f, bottleneck=4 * f, decoder=half)
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
        quick_on_lone_patches(self)

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
        self.widths = widths(
            encoder=2 * feature_size, bottleneck=16 * feature_size, decoder=feature_size
        )
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
        quick_on_lone_patches(self)

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
        ConfigError: The patch does not fit the architecture (STR-106), or the architecture is no
            student's or its size none that it can have (STR-102).
    """
    model = study.model["student"]
    _check_size(model, study.volume.patch)
    heads = {label: 1 + len(known.classes) for label, known in study.student_labels().items()}
    if model.arch == "pocket-unet":
        return PocketUnet(study.input_channels, heads, model.channels or ())
    width = model.feature_size or 0
    if model.arch == "light-swin":
        return LightSwin(study.input_channels, heads, width)
    small = min(study.volume.patch) < GROUP_NORM_BELOW
    return SwinStudent(study.input_channels, heads, width, group_norm=small)


def _check_size(model: Model, patch: tuple[int, int, int]) -> None:
    flat = model.arch == "pocket-unet"
    fits = {
        "light-swin": (LIGHT_MULTIPLE, LIGHT_SMALLEST),
        "swin-unetr": (SWIN_MULTIPLE, SWIN_MULTIPLE),
        "pocket-unet": least_side(model.channels or ()),
    }
    if model.arch not in fits or not (
        flat or (model.feature_size and model.feature_size % 12 == 0)
    ):
        raise ConfigError(
            "In the study file, model.student is neither light-swin nor swin-unetr with a feature "
            "size that is a multiple of 12, nor pocket-unet.",
            fix="Set arch to light-swin or swin-unetr, and feature_size to 12, 24, 36 or 48; or set "
            "arch to pocket-unet, and channels.",
            code="STR-102",
        )
    multiple, smallest = fits[model.arch]
    if any(side % multiple or side < smallest for side in (patch[:2] if flat else patch)):
        raise ConfigError(
            f"The patch {list(patch)} does not fit {model.arch}, which needs sides that are "
            f"multiples of {multiple} and at least {smallest}"
            f"{', along x and y' if flat else ''}.",
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
