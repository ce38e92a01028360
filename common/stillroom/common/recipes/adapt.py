"""``adapt``: one more label, learned on top of a network that stays as it is.

Linear classification and fine-tuning of the decoder: Huang et al., arXiv 2402.15216; a frozen student
with a new last layer: Tölle et al., arXiv 2407.07557, downstream task; a visual prompt: Tian et al., arXiv
2405.07411.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.common.recipes.declaration import Declaration, Uses, unusable
from stillroom.common.recipes.prompt import PromptOptions, check_prompt
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study

Some = Annotated[int, Field(ge=1)]


class AdaptOptions(Section):
    """What an ``adapt`` stage can be told."""

    how: Literal["linear", "decoder", "prompt"] = "linear"
    """``linear``: one 1x1 layer is learned and exchanged. ``decoder``: a copy of the backbone's decoder
    is, too. ``prompt``: the layer and what is added to every image."""
    prompt: PromptOptions = PromptOptions()
    """Of ``prompt``."""
    cases: Some | None = None
    """Most labelled cases that a site learns from, the same ones in every round; all when left out."""
    slices: Some | None = None
    """Most labelled axial slices that a site learns from, for patches of one slice; all when left out."""
    timestep: Annotated[int, Field(ge=0, lt=1000)] = 0
    """On a denoiser: how much noise the slice is read with; 0 is the clean image."""


def _build(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.adapter import build_adapter
    from stillroom.common.nn.prompt import build_prompt_adapter

    if stage.chosen(AdaptOptions).how == "prompt":
        return build_prompt_adapter(study, stage)
    return build_adapter(study, stage)


def _check(study: "Study", stage: "Stage") -> None:
    options = stage.chosen(AdaptOptions)
    where = f"stage {stage.name}"
    kind = study.stage_named(stage.backbone or "").declared.produces
    if options.timestep and kind != "denoiser":
        raise unusable(
            f"{where} sets options.timestep, and its backbone {stage.backbone} is no denoiser",
            "Leave it out.",
        )
    if options.slices is not None and study.volume.patch[2] != 1:
        raise unusable(
            f"{where} counts slices, and the patch is {study.volume.patch[2]} slices deep",
            "Use options.cases, or set volume.patch to 1 along z.",
        )
    if options.how == "prompt":
        check_prompt(study, stage, options.prompt, kind=kind or "")
    elif options.prompt != PromptOptions():
        raise unusable(
            f"{where} has options of a prompt, and learns none",
            'Set options.how to "prompt", or leave options.prompt out.',
        )
    if options.how != "decoder":
        return
    if kind == "teacher":
        raise unusable(
            f"{where} learns the decoder of {stage.backbone}, and a teacher has none of its own",
            'Set options.how to "linear", or begin a teach stage from it with start.',
        )
    if (
        stage.privacy is not None
        or stage.aggregation.clip_norm is not None
        or stage.aggregation.server != "fedavg"
    ):
        raise unusable(
            f"{where} begins with a copy of a decoder, which would be clipped or damped like a step "
            "of learning",
            "Leave out privacy, aggregation.clip_norm and aggregation.server, or learn linearly.",
        )


ADAPT = Declaration(
    name="adapt",
    summary="one more label from few cases, on top of a network that stays as it is",
    source="arXiv 2402.15216 (linear, decoder); MoVL, arXiv 2405.07411 (prompt); FedKD, arXiv "
    "2407.07557, downstream task",
    purpose=lambda stage: f"a small part on top of a finished network learns {stage.label}",
    build=_build,
    produces="adapter",
    label="one",
    backbone=Uses(frozenset({"student", "teacher", "denoiser"}), fewest=1, most=1),
    start=frozenset({"adapter"}),
    options=AdaptOptions,
    terms=("discrepancy",),
    side_by_side=True,
    check=_check,
)
