"""Multiple-instance classification of whole scans: a class for each scan, and no drawing.

What Pisula & Bozek (arXiv 2403.05325) measure their feature extractors with. Gated attention is
Ilse et al. 2018; transformer pooling is MONAI's MILModel.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.common.recipes.declaration import Declaration, Uses, unusable
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study


class BagOptions(Section):
    """``[stage.options]`` of ``bags``."""

    tile: Annotated[int, Field(ge=8, le=256)] = 32
    """Side of a tile in voxels."""
    most_tiles: Annotated[int, Field(ge=1, le=4096)] = 32
    """Tiles of one scan that a training step looks at, drawn anew each time; scoring looks at all."""
    train_extractor: bool = True
    """Whether the extractor, the student's encoder, learns and is exchanged. If not, ``backbone``
    names the stage whose network is used as it is."""
    pooling: Literal["gated", "transformer"] = "gated"
    width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 64
    """Of a tile's vector in the pool."""
    depth: Annotated[int, Field(ge=1, le=12)] = 2
    """Layers of transformer pooling."""


def _build(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.bags import BagClassifier, GatedPool, TransformerPool
    from stillroom.common.nn.prepare import module_of
    from stillroom.common.nn.tiles import build_extractor, width_of

    options, label = stage.chosen(BagOptions), stage.label or ""
    extractor = build_extractor(study) if stage.backbone is None else None
    source: nn.Module | None = extractor
    if source is None:
        source = module_of(study, study.stage_named(stage.backbone or "")).eval()
    gated = options.pooling == "gated"
    return BagClassifier(
        label,
        len(study.label[label].classes),
        features=width_of(source, study, stage, options.tile),
        width=options.width,
        pool=GatedPool(options.width, options.width)
        if gated
        else TransformerPool(options.width, options.depth),
        extractor=extractor,
    )


def _check(study: "Study", stage: "Stage") -> None:
    learns = stage.chosen(BagOptions).train_extractor
    if learns != (stage.backbone is None):
        raise unusable(
            f"stage {stage.name} {'trains its extractor and' if learns else 'trains no extractor and'} "
            f"names {'a' if learns else 'no'} backbone",
            "Name an earlier stage in backbone and set options.train_extractor to false, or neither; "
            "an extractor that goes on learning is named in start.",
        )
    if learns and "student" not in study.model:
        raise unusable(
            f"stage {stage.name} trains the student's encoder, and there is no student",
            "Add [model.student], or name a backbone.",
        )
    if stage.backbone is not None and stage.start is not None:
        raise unusable(
            f"stage {stage.name} starts from one network and builds on another",
            "Name either start or backbone.",
        )


BAGS = Declaration(
    name="bags",
    summary="one class for each scan from its tiles: attention finds which of them matter",
    source="MCM+KD, arXiv 2403.05325; gated attention: Ilse et al. 2018; transformer: MONAI MILModel",
    purpose=lambda stage: f"a network learns to tell {stage.label} of a whole scan",
    build=_build,
    produces="classifier",
    label="one",
    kinds=frozenset({"bag"}),
    start=frozenset({"encoder", "student", "classifier"}),
    backbone=Uses(frozenset({"teacher", "student", "encoder", "denoiser"}), most=1),
    options=BagOptions,
    check=_check,
)
