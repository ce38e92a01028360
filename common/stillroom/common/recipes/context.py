"""Masked context modelling with distillation: the student's encoder warms up on unlabelled scans.

Pisula & Bozek, arXiv 2403.05325 (ECCV Workshops 2024).
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.common.recipes.declaration import Declaration, Uses, unusable
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study

Side = Annotated[int, Field(ge=1, le=16)]


class ContextOptions(Section):
    """``[stage.options]`` of ``pretrain_context``. None of these was published: all our own choice."""

    tiles: tuple[Side, Side, Side] | tuple[Side, Side] = (3, 3, 3)
    """Tiles of a window along (x, y, z), or along (x, y) in a study of slices."""
    tile: Annotated[int, Field(ge=8, le=256)] = 32
    """Side of a tile in voxels; networks read it as they would read a patch."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of a window's tiles that are hidden from the encoder."""
    loss_on: Literal["masked", "all"] = "masked"
    """Which tiles' guesses count."""
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=4)] = 128
    """Of the predictor's tokens."""
    depth: Annotated[int, Field(ge=1, le=12)] = 2
    """Layers of the predictor."""

    @property
    def count(self) -> int:
        """Tiles of a window."""
        return math.prod(self.tiles)

    @property
    def hidden(self) -> int:
        """How many of them are hidden: at least one, never all."""
        return min(max(round(self.ratio * self.count), 1), self.count - 1)


def _build(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.context import Context, ContextModel
    from stillroom.common.nn.prepare import module_of
    from stillroom.common.nn.tiles import build_extractor, width_of

    options, side = stage.chosen(ContextOptions), stage.chosen(ContextOptions).tile
    extractor = build_extractor(study)
    teacher = module_of(study, study.stage_named(stage.teachers[0])).eval()
    target = width_of(teacher, study, stage, side)
    context = Context(
        options.count,
        width_of(extractor, study, stage, side),
        target,
        dim=options.width,
        depth=options.depth,
    )
    return ContextModel(extractor, context)


def _check(study: "Study", stage: "Stage") -> None:
    options = stage.chosen(ContextOptions)
    flat = study.volume.patch[2] == 1
    if flat != (len(options.tiles) == 2):
        raise unusable(
            f"stage {stage.name} has windows of {'cubes' if flat else 'squares'}, and the study "
            f"looks at {'slices' if flat else 'volumes'}",
            f"Give options.tiles {2 if flat else 3} numbers.",
        )
    if options.count < 2:
        raise unusable(
            f"stage {stage.name} has windows of a single tile, which nothing could be guessed from",
            "Give options.tiles larger numbers.",
        )


PRETRAIN_CONTEXT = Declaration(
    name="pretrain_context",
    summary="the student's encoder warms up on unlabelled scans: what would a teacher see in hidden tiles?",
    source="MCM+KD, arXiv 2403.05325; window, ratio and predictor are ours",
    purpose=lambda _: (
        "a network learns from this hospital's scans, labelled or not, to guess hidden parts"
    ),
    build=_build,
    produces="encoder",
    models=("student",),
    start=frozenset({"student", "encoder"}),
    teachers=Uses(frozenset({"teacher", "student", "denoiser"}), fewest=1, most=1),
    options=ContextOptions,
    terms=("context",),
    scored=False,
    check=_check,
)
