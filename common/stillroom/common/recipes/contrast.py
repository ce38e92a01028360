"""Options of learning from a teacher's maps: multi-scale contrastive distillation.

arXiv 2406.03173 (Biswas 2024) and its code; defaults are the weights of its first pair, T1 to S1.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.common.recipes.declaration import unusable
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from stillroom.common.stage import Stage
    from stillroom.common.study import Study

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TermWeights(Section):
    """Weight of each of a teacher's terms; 0 leaves it out."""

    bottleneck: Weight = 0.2
    """Contrast of the deepest maps."""
    encoder: Weight = 0.1
    """Contrast of the encoders' maps at stride 4."""
    decoder: Weight = 0.1
    """Contrast of the maps that the heads read."""
    maps: Weight = 0.2
    """Divergence of the softened outputs, where the student has a head for the teacher's label."""


TERMS = tuple(TermWeights.model_fields)


class DistilOptions(Section):
    """What teachers add to the loss of the labels; without ``teachers`` nothing of it applies."""

    supervised: Weight = 0.4
    """Weight of the labels' own losses beside the teachers' terms."""
    weights: TermWeights = TermWeights()
    """Of the teachers' terms, each an average over teachers."""
    tau: Above0 = 0.4
    """Temperature of the contrast; the paper has 0.4 for its smaller and 0.1 for its larger student."""
    temperature: Above0 = 4.0
    """Softens both outputs; their divergence counts by its square."""
    negatives: Literal["cells", "images"] = "cells"
    """What a map is told apart from. ``images``: the paper's, whole maps of the batch's other
    images. ``cells`` (our choice, since batches of volumes are tiny): maps are averaged over a grid of
    cells, and a cell is told apart from the other cells of its own and the other images."""
    grid: Annotated[int, Field(ge=1, le=16)] = 4
    """Cells along each axis; fewer where a map is smaller."""
    unlabelled: bool = True
    """Learn from scans without any label too, through the teachers' terms alone."""


class TeachOptions(Section):
    """What a teacher learns beside its label."""

    reconstruction: Weight = 0.0
    """Weight of the mean squared error of the image made again by a second head, for which scans
    without the label serve too; the paper has 0.2, and 0 is without that head."""


def check_contrast(study: "Study", stage: "Stage") -> None:
    """Refuse options without effect, and teachers that saw another grid."""
    options, where = stage.chosen(DistilOptions), f"stage {stage.name}"
    if not stage.teachers:
        if options != DistilOptions():
            raise unusable(
                f"{where} has options for learning from teachers, and no teachers",
                "Name earlier teach stages in teachers, or leave the options out.",
            )
        return
    chosen = options.weights
    if not any(getattr(chosen, term) for term in TERMS):
        raise unusable(f"{where} names teachers and gives all their terms weight 0", "Weigh one.")
    if options.negatives == "images" and stage.train.batch_size == 1:
        raise unusable(
            f"{where} has images as negatives and one image per batch, which teaches nothing",
            'Set options.negatives = "cells", or a larger train.batch_size.',
        )
    if taken := sorted(set(TERMS) & study.label.keys()):
        raise unusable(
            f"label {taken[0]} has the name of a term of {where}", "Give the label another name."
        )
    for name in stage.teachers:
        if study.spacing_of(study.stage_named(name)) != study.spacing_of(stage):
            raise unusable(
                f"{where} learns from {name}, which works on another grid",
                "Give both stages the same spacing_mm.",
            )


def check_reconstruction(study: "Study", stage: "Stage") -> None:
    """Refuse a label whose loss would be told under the name of the reconstruction's."""
    if stage.chosen(TeachOptions).reconstruction and "reconstruction" in study.label:
        raise unusable(
            f"label reconstruction has the name of a term of stage {stage.name}",
            "Give the label another name.",
        )
