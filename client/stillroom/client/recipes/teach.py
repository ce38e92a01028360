"""``teach``: one CNN learns one label type at the sites that own it (FedKD, step A).

With ``options.reconstruction`` it also makes its input again from what it found (arXiv 2406.03173,
section 2.1 of its code: mean squared error, weight 0.2), for which scans without the label serve as
well. That head is exchanged, as its own group ``reconstruction``: were it each site's own, every
site would pull the one shared trunk towards another reading of it, and the average would fit none.
It holds no image.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch.nn.functional import mse_loss
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.cohort import training_cases
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.rounds import Learner, TrainingRecipe
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device
from stillroom.client.training.loader import Batches
from stillroom.client.training.loop import Losses, supervised_losses
from stillroom.client.training.sampling import Batch, Sampler
from stillroom.common.nn.pocket import SliceTeacher
from stillroom.common.nn.teacher import Teacher
from stillroom.common.recipes.contrast import TeachOptions


class Teach(TrainingRecipe):
    """Learns from truly labelled cases only: a teacher never learns from another's guesses."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """The stage's label."""
        return (context.stage.label or "",)

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with a true label of the stage's type."""
        return [info.id for info in candidates if context.stage.label in info.labels]

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """The CNN, and its input made again when the stage says so."""
        plain, weight = super().learner(context, device), _weight(context)
        if not weight:
            return plain
        teacher = cast(Teacher | SliceTeacher, plain.exchanged)

        def step(batch: Batch) -> Losses:
            x = device.move(batch.x)
            with device.autocast():
                outputs, again = teacher.restored(x)
            losses = supervised_losses(outputs, batch, context.study, device)
            return losses | {"reconstruction": mse_loss(again.float(), x[:, : again.shape[1]])}

        weights = {**context.stage.label_weights, "reconstruction": weight}
        return Learner(teacher, step, weights=weights)

    @override
    def batches(self, context: RecipeContext, ids: list[str]) -> Batches:
        """Labelled patches; with reconstruction, beside as many of scans without the label."""
        labelled = super().batches(context, ids)
        infos = training_cases(context.store, context.study)
        others = [info.id for info in infos if context.stage.label not in info.labels]
        if not _weight(context) or not others:
            return labelled
        unlabelled = Sampler(
            others,
            WorkingSet.of_stage(context.store, context.study, context.stage).case,
            labels=(),
            volume=context.study.volume,
            batch_size=context.stage.train.batch_size,
            seed=context.round_seed,
        )
        return Beside((labelled, unlabelled))


class Beside:
    """Batches of several sources in one; only the first has targets.

    Many more scans lack a label than have it. Drawn from one bag, the labelled ones would
    hardly ever come; so every step sees as many labelled patches as without reconstruction.
    """

    def __init__(self, sources: Sequence[Batches]) -> None:
        self._sources = tuple(sources)

    def draw(self) -> Batch:
        """The next batch of each, one after the other."""
        drawn = [source.draw() for source in self._sources]
        ids = tuple(one for batch in drawn for one in batch.ids)
        return Batch(torch.cat([batch.x for batch in drawn]), drawn[0].targets, ids)


def _weight(context: RecipeContext) -> float:
    return context.stage.chosen(TeachOptions).reconstruction
