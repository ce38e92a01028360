"""The round that all training recipes share; a recipe overrides what differs."""

import torch
from torch import Tensor, nn

from stillroom.client.intake.store import CaseInfo
from stillroom.client.privacy import privatise
from stillroom.client.recipes.cohort import no_case, training_cases
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.recipes.evaluation import evaluate
from stillroom.client.recipes.models import network
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device, has_spare_core, seeded
from stillroom.client.training.loader import batches_of
from stillroom.client.training.loop import Report, optimiser_of, supervised_step, train
from stillroom.client.training.moments import export_moments, restore_moments
from stillroom.client.training.sampling import Batch, Sampler
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, group_of
from stillroom.common.study import Stage, Study


class TrainingRecipe:
    """A recipe that trains a network and exchanges its weights."""

    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """Label types that it learns."""
        raise NotImplementedError

    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Which of the training cases it learns from."""
        raise NotImplementedError

    def build(self, study: Study, stage: Stage) -> nn.Module:
        """The network, with the tensors of the stage's manifest."""
        return module_of(study, stage)

    def step(
        self, context: RecipeContext, module: nn.Module, batch: Batch, device: Device
    ) -> dict[str, Tensor]:
        """The losses of one optimiser step, by label type."""
        return supervised_step(module, batch, context.study, device)

    def groups(self, names: list[str], report: Report) -> dict[str, int]:
        """Distinct cases per parameter group: a head counts its own label's, others count all."""
        groups = dict.fromkeys(group_of(name) for name in names)
        return {
            group: len(report.cases.get(group.removeprefix("head."), ()))
            if group.startswith("head.")
            else len(report.all_cases)
            for group in groups
        }

    def evaluate(self, context: RecipeContext) -> RoundResult:
        """Scores of ``context.weights``; see ``evaluation.evaluate``."""
        return evaluate(context)

    def run(self, context: RecipeContext) -> RoundResult:
        """Train the stage's network on this site's cases for one round.

        Raises:
            DataError: STR-401, no case for this stage.
            ResourceError: STR-502, stopped.
        """
        study, stage = context.study, context.stage
        # 1. The cases, before anything expensive.
        ids = self.cases(context, training_cases(context.store, study))
        if context.role == "held_out" or not ids:
            raise no_case(f"no training case for stage {stage.name}")
        if context.weights is None:
            raise ValueError(f"stage {stage.name} trains, and no weights were given")

        # 2. The network with the weights that arrived.
        device = context.choose_device()
        module = network(study, stage, context.weights, device, build=self.build)

        # 3. A few steps, repeatable from the seed.
        optimiser = optimiser_of(module, stage, context.round)
        if stage.train.keep_optimiser and (before := context.memory.load()) is not None:
            restore_moments(module, optimiser, before)
        report = self._learn(context, module, optimiser, ids)

        # 4. What the next round starts from. It counts with this round's answer: a round that is
        #    asked again starts from the same moments and never steps twice.
        if stage.train.keep_optimiser:
            context.memory.save(export_moments(module, optimiser))

        # 5. What may leave. Noised here, once: drawn again it would be averaged away, and so a
        #    round that is asked again is answered with what was kept.
        weights = export(module)
        if stage.privacy is not None:
            privatise(weights, context.weights, stage.privacy)
        return RoundResult(weights, self.groups(list(weights), report), metrics_of(report))

    def _learn(
        self,
        context: RecipeContext,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        ids: list[str],
    ) -> Report:
        """The round's steps, on patches of the cases ``ids``."""
        study, stage, device = context.study, context.stage, context.choose_device()
        sampler = Sampler(
            ids,
            WorkingSet.of_stage(context.store, study, stage).case,
            labels=self.labels(context),
            volume=study.volume,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )
        with (
            seeded(device, context.round_seed),
            batches_of(sampler, stage.train.steps, ahead=has_spare_core(device)) as batches,
        ):
            return train(
                module,
                batches,
                lambda net, batch: self.step(context, net, batch, device),
                stage=stage,
                optimiser=optimiser,
                progress=context.progress,
                should_stop=context.should_stop,
            )


def metrics_of(report: Report) -> dict[str, float]:
    """``train.*`` of a report."""
    return {
        "train.loss": report.loss,
        "train.cases": len(report.all_cases),
        "train.seconds": report.seconds,
        **{f"train.{label}.loss": value for label, value in report.label_loss.items()},
    }
