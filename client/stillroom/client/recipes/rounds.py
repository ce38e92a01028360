"""The round that all training recipes share; a recipe overrides what differs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.privacy import privatise
from stillroom.client.recipes.cohort import no_case, training_cases
from stillroom.client.recipes.context import Recipe, RecipeContext, RoundResult
from stillroom.client.recipes.evaluation import evaluate
from stillroom.client.recipes.models import begun, network
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device, has_spare_core, seeded
from stillroom.client.training.loader import Batches, batches_of
from stillroom.client.training.loop import Report, Step, optimiser_of, supervised_step, train
from stillroom.client.training.moments import export_moments, restore_moments
from stillroom.client.training.sampling import Sampler
from stillroom.common.nn.weights import export, group_of, load

MOMENTS, PRIVATE = "moments.", "private."
"""Parts of what a stage remembers from round to round."""


@dataclass(frozen=True, slots=True)
class Learner:
    """What one round trains.

    Attributes:
        exchanged: Holds the tensors of the stage's manifest and no other.
        step: The losses of a batch, through whatever frozen networks there are.
        private: Learns beside it and never leaves the site, which keeps it from round to round.
        weights: Of losses by label type or term; 1 when left out.
    """

    exchanged: nn.Module
    step: Step
    private: nn.Module | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """All that learns."""
        if self.private is None:
            return self.exchanged
        return nn.ModuleDict({"exchanged": self.exchanged, "private": self.private})


class TrainingRecipe(Recipe):
    """A recipe that trains a network and exchanges its weights."""

    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """Label types that it learns."""
        raise NotImplementedError

    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Which of the training cases it learns from."""
        raise NotImplementedError

    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """What the round trains and how; ``context.weights`` are those that it begins from.

        Called under the round's seed: fresh private weights are the same whenever it is asked again.
        """
        module = network(context.study, context.stage, arrived(context), device)
        return Learner(
            module,
            lambda batch: supervised_step(module, batch, context.study, device),
            weights=context.stage.label_weights,
        )

    def batches(self, context: RecipeContext, ids: list[str]) -> Batches:
        """Where its batches come from: patches of the cases ``ids``."""
        study, stage = context.study, context.stage
        return Sampler(
            ids,
            WorkingSet.of_stage(context.store, study, stage).case,
            labels=self.labels(context),
            volume=study.volume,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )

    def groups(self, names: list[str], report: Report) -> dict[str, int]:
        """Distinct samples per parameter group: a head counts its own label's, others count all."""
        groups = dict.fromkeys(group_of(name) for name in names)
        return {
            group: len(report.samples.get(group.removeprefix("head."), ()))
            if group.startswith("head.")
            else len(report.all_samples)
            for group in groups
        }

    def predictor(self, context: RecipeContext, device: Device) -> nn.Module:
        """What predicts label types with ``context.weights``: the stage's own network."""
        return network(context.study, context.stage, arrived(context), device)

    @override
    def evaluate(self, context: RecipeContext, keep: Path | None = None) -> RoundResult:
        """Scores of ``context.weights``; see ``evaluation.evaluate``."""
        module = self.predictor(context, context.choose_device())
        return evaluate(context, module=module, keep_predictions=keep)

    @override
    def run(self, context: RecipeContext) -> RoundResult:
        """Train the stage's network on this site's cases for one round.

        Raises:
            DataError: STR-401, no case for this stage.
            ResourceError: STR-502, stopped.
        """
        stage = context.stage
        # 1. The cases, before anything expensive.
        ids = self.cases(context, training_cases(context.store, context.study))
        if context.role == "held_out" or not ids:
            raise no_case(f"no training case for stage {stage.name}")

        # 2. The network with the weights that arrived, and what the site remembers beside them.
        device, before = context.choose_device(), context.memory.load() or {}
        with seeded(device, context.round_seed):
            learner = self.learner(begun(context), device)
            if learner.private is not None and (kept := _part(before, PRIVATE)):
                load(learner.private, kept)

            # 3. A few steps, repeatable from the seed.
            optimiser = optimiser_of(learner.module, stage, context.round)
            if stage.train.keep_optimiser and (moments := _part(before, MOMENTS)):
                restore_moments(learner.module, optimiser, moments)
            report = self._learn(context, learner, optimiser, self.batches(context, ids))

        # 4. What the next round starts from. It counts with this round's answer: a round that is
        #    asked again starts from the same memory and never steps twice.
        _remember(context, learner, optimiser)

        # 5. What may leave. Noised here, once: drawn again it would be averaged away, and so a
        #    round that is asked again is answered with what was kept.
        weights = export(learner.exchanged)
        if stage.privacy is not None:
            privatise(weights, arrived(context), stage.privacy)
        metrics = metrics_of(report)
        return RoundResult(weights, self.groups(list(weights), report), metrics)

    def _learn(
        self,
        context: RecipeContext,
        learner: Learner,
        optimiser: torch.optim.Optimizer,
        source: Batches,
    ) -> Report:
        """The round's steps."""
        stage, device = context.stage, context.choose_device()
        with batches_of(source, stage.train.steps, ahead=has_spare_core(device)) as batches:
            return train(
                learner.module,
                batches,
                learner.step,
                stage=stage,
                weights=learner.weights,
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


def arrived(context: RecipeContext) -> Mapping[str, NDArray[Any]]:
    """The weights that came with the round; every training stage has some."""
    if context.weights is None:
        raise ValueError(f"stage {context.stage.name} has a model, and no weights were given")
    return context.weights


def _part(remembered: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(part): v for k, v in remembered.items() if k.startswith(part)}


def _remember(context: RecipeContext, learner: Learner, optimiser: torch.optim.AdamW) -> None:
    kept: dict[str, NDArray[Any]] = {}
    if context.stage.train.keep_optimiser:
        moments = export_moments(learner.module, optimiser)
        kept |= {MOMENTS + name: value for name, value in moments.items()}
    if learner.private is not None:
        kept |= {PRIVATE + name: value for name, value in export(learner.private).items()}
    if kept:
        context.memory.save(kept)
