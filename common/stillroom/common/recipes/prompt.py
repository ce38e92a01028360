"""Options of adapting by a visual prompt.

MoVL, Tian et al., arXiv 2405.07411. Its equation, weights and sizes are in nothing we could read: the
form of the discrepancy, its weight and the size of the border are our own choice.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stillroom.common.recipes.declaration import unusable
from stillroom.common.settings import Section

if TYPE_CHECKING:
    from stillroom.common.stage import Stage
    from stillroom.common.study import Study


class PromptOptions(Section):
    """What an ``adapt`` stage with ``how = "prompt"`` can be told."""

    extent: Literal["border", "full"] = "border"
    """Where the image is added to: a frame of ``pad`` voxels, or everywhere."""
    pad: Annotated[int, Field(ge=1)] = 8
    """Width of the frame in voxels, on every side longer than one voxel."""
    mapping: Literal["probe", "random", "frequency"] = "probe"
    """What makes the label of what the backbone says. ``probe``: a linear layer that learns with the
    prompt. The other two are baselines without one: each class is one of the backbone's own
    classes, by chance or by how often it answers that class, counted anew in every round."""
    discrepancy: Literal["none", "ce_plain", "kl", "feat"] = "kl"
    """What the prompted and the plain image should agree in: ``ce_plain``, the plain one is classified
    too; ``kl``, their predictions; ``feat``, their maps. Our reading of "the variance of prompted
    and plain images"."""
    discrepancy_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Beside the label's own loss."""
    share: bool = True
    """Exchange and average the prompt. Otherwise each site keeps its own, and a site without one,
    such as a held-out one, predicts with none."""
    probe_rounds: Annotated[int, Field(ge=0)] = 0
    """So many rounds the probe learns alone first, with the prompt at 0."""


def check_prompt(study: "Study", stage: "Stage", chosen: PromptOptions, *, kind: str) -> None:
    """Refuse a prompt that could not do what it says.

    Args:
        study: Whose.
        stage: With ``how = "prompt"``.
        chosen: Its options.
        kind: Of artefact that its backbone is.

    Raises:
        ConfigError: STR-102.
    """
    where = f"stage {stage.name}"
    sides = [side for side in study.volume.patch if side > 1]
    if chosen.extent == "border" and 2 * chosen.pad >= min(sides, default=0):
        raise unusable(
            f"{where} has a prompt of {chosen.pad} voxels on each side of the patch "
            f"{list(study.volume.patch)}, which leaves nothing of the image",
            'Make options.prompt.pad smaller, or set options.prompt.extent = "full".',
        )
    if "discrepancy" in study.label:
        raise unusable(
            f"label discrepancy has the name of a term of {where}", "Give the label another name."
        )
    if chosen.probe_rounds >= stage.rounds:
        raise unusable(
            f"{where} has {stage.rounds} rounds, in {chosen.probe_rounds} of which its prompt does "
            "not learn",
            "Make options.prompt.probe_rounds smaller.",
        )
    if chosen.mapping == "probe":
        return
    if not chosen.share or chosen.probe_rounds:
        raise unusable(
            f"{where} has no probe, and with its prompt private or waiting it would exchange nothing",
            "Leave out options.prompt.share and probe_rounds, or mapping.",
        )
    if chosen.mapping == "frequency" and (
        stage.privacy is not None
        or stage.aggregation.clip_norm is not None
        or stage.aggregation.server != "fedavg"
    ):
        raise unusable(
            f"{where} exchanges how often classes were answered, which would be clipped, damped or "
            "noised like a step of learning",
            'Leave out privacy, aggregation.clip_norm and aggregation.server, or map "random".',
        )
    classes = 0
    if kind != "denoiser":
        below = study.predicted_labels(study.stage_named(stage.backbone or ""))
        classes = sum(1 + len(study.label[one].classes) for one in below)
    wanted = 1 + len(study.label[stage.label or ""].classes)
    if classes < wanted:
        raise unusable(
            f"{where} maps {wanted} classes one to one, and its backbone {stage.backbone} knows "
            f"{classes}",
            'Set options.prompt.mapping = "probe".',
        )
