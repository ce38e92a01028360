"""``adapt``: one more label from few cases, on top of a network that stays as it is.

Huang et al., arXiv 2402.15216 (linear classification, fine-tuning the decoder). What is exchanged is
the adapter alone; the backbone is an artefact of an earlier stage and never moves by one bit.
"""

from torch import nn
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.cohort import first_of
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import frozen, network
from stillroom.client.recipes.prompt import prompt_learner, prompted
from stillroom.client.recipes.rounds import Learner, TrainingRecipe, arrived
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device
from stillroom.client.training.loader import Batches
from stillroom.client.training.loop import supervised_step
from stillroom.client.training.sampling import Sampler
from stillroom.client.training.slices import labelled_slices, slice_of
from stillroom.common.nn.adapter import Adapted, Adapter
from stillroom.common.recipes.adapt import AdaptOptions


class Adapt(TrainingRecipe):
    """Learns the stage's label from true labels only."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """The stage's label."""
        return (context.stage.label or "",)

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with a true label of the stage's type, at most ``options.cases``."""
        most = context.stage.chosen(AdaptOptions).cases
        owned = [info.id for info in candidates if context.stage.label in info.labels]
        return first_of(owned, seed=context.study.study.seed, most=most)

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """The adapter, through the backbone."""
        if context.stage.chosen(AdaptOptions).how == "prompt":
            return prompt_learner(context, device)
        adapted = _adapted(context, device)
        if context.round == 1 and context.stage.start is None:
            adapted.adapter.begin(adapted.backbone)
        return Learner(
            adapted.adapter,
            lambda batch: supervised_step(adapted, batch, context.study, device),
            weights=context.stage.label_weights,
        )

    @override
    def batches(self, context: RecipeContext, ids: list[str]) -> Batches:
        """Patches of the cases ``ids``, or of at most ``options.slices`` of their labelled slices."""
        study, stage = context.study, context.stage
        most = stage.chosen(AdaptOptions).slices
        if most is None:
            return super().batches(context, ids)
        cases = WorkingSet.of_stage(context.store, study, stage)
        all_slices = labelled_slices(ids, cases.case, stage.label or "")
        return Sampler(
            first_of(all_slices, seed=study.study.seed, most=most),
            lambda name: slice_of(name, cases.case),
            labels=self.labels(context),
            volume=study.volume,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )

    @override
    def predictor(self, context: RecipeContext, device: Device) -> nn.Module:
        """The backbone with the adapter."""
        if context.stage.chosen(AdaptOptions).how == "prompt":
            return prompted(context, device)
        return _adapted(context, device)


def _adapted(context: RecipeContext, device: Device) -> Adapted:
    adapter = network(context.study, context.stage, arrived(context), device)
    if not isinstance(adapter, Adapter):
        raise TypeError(f"stage {context.stage.name} has no adapter")
    return Adapted(frozen(context, context.stage.backbone or "", device), adapter)
