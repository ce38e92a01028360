"""Networks that read a scan tile by tile: one vector for each tile.

Two recipes look at a scan this way: one predicts the vectors of hidden tiles from the others, the
other classifies the whole bag of them.
"""

from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.errors import ConfigError
from stillroom.common.nn.student import Features, Student, build_student
from stillroom.common.study import Stage, Study

Shape = tuple[int, int, int]
"""(D, H, W) in voxels."""


def tile_shape(study: Study, side: int) -> Shape:
    """A cube of ``side``, or a square of one slice where the study looks at slices."""
    return (1 if study.volume.patch[2] == 1 else side, side, side)


class Extractor(nn.Module):
    """A student's encoder under the student's own names, ``encoder.*``.

    A vector is the mean of the deepest map over a tile.

    Args:
        student: Loses its decoder and heads.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        decoder = student.decoder
        names = list(decoder) if isinstance(decoder, nn.ModuleDict) else None
        none = _NoDecoder()
        student.decoder = none if names is None else nn.ModuleDict(dict.fromkeys(names, none))
        student.heads = nn.ModuleDict()
        self.encoder = student.encoder
        # Beside the registry: what is left of the student holds the same tensors once more.
        self._student = (student,)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """``(B, width)`` of tiles ``(B, Cin, D, H, W)``."""
        return pooled(self._student[0], x)


class _NoDecoder(nn.Module):
    """Stands where a decoder was: hands the deepest map through, at no cost."""

    @override
    def forward(self, first: object, *_: object) -> Tensor:
        return first if isinstance(first, Tensor) else cast("Tensor", getattr(first, "bottom"))  # noqa: B009


def build_extractor(study: Study) -> Extractor:
    """The encoder of the study's student with fresh weights."""
    return Extractor(build_student(study))


def pooled(module: nn.Module, x: Tensor) -> Tensor:
    """``(B, C)``: mean of the deepest map of ``module`` over tiles ``x`` ``(B, Cin, D, H, W)``.

    Args:
        module: A teacher, student, encoder or denoiser: whatever shows its ``features`` or has an
            ``extractor``.
        x: Tiles.
    """
    if isinstance(module, Extractor):
        return cast("Tensor", module(x))
    extractor = getattr(module, "extractor", None)
    if extractor is not None:
        return cast("Tensor", extractor(x))
    found: Features = module.features(x)  # type: ignore[operator]
    return found.bottleneck.float().flatten(2).mean(2)


def width_of(module: nn.Module, study: Study, stage: Stage, side: int) -> int:
    """Length of the vectors that ``module`` makes of tiles, tried on an empty one.

    Raises:
        ConfigError: STR-106, it cannot read tiles of this size.
    """
    empty = torch.zeros(2, study.input_channels, *tile_shape(study, side))
    try:
        with torch.no_grad():
            return pooled(module, empty).shape[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"In the study file, a network of stage {stage.name} cannot read tiles of {side} voxels.",
            fix="Choose options.tile as a patch of volume.patch could be: a multiple of 8 and at "
            "least 16 for light-swin, of 32 for swin-unetr, and so on.",
            code="STR-106",
        ) from error
