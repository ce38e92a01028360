"""The round that all training recipes share; a recipe says what differs."""

from typing import Protocol

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.cohort import no_case, training_cases
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.recipes.models import network
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import seeded
from stillroom.client.training.loop import Report, train
from stillroom.client.training.sampling import Sampler
from stillroom.common.nn.weights import export, group_of


class TrainingRecipe(Protocol):
    """What tells one training recipe from another."""

    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """Label types that it learns."""
        ...

    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Which of the training cases it learns from."""
        ...


def train_round(recipe: TrainingRecipe, context: RecipeContext) -> RoundResult:
    """Train the stage's network on this site's cases for one round.

    Raises:
        DataError: STR-401, no case for this stage.
        ResourceError: STR-502, stopped.
    """
    study, stage = context.study, context.stage
    # 1. The cases, before anything expensive.
    ids = recipe.cases(context, training_cases(context.store, study))
    if context.role == "held_out" or not ids:
        raise no_case(f"no training case for stage {stage.name}")
    if context.weights is None:
        raise ValueError(f"stage {stage.name} trains, and no weights were given")

    # 2. The network with the weights that arrived.
    device = context.choose_device()
    module = network(study, stage, context.weights, device)

    # 3. A few steps, repeatable from the seed.
    sampler = Sampler(
        ids,
        WorkingSet.of_stage(context.store, study, stage).case,
        labels=recipe.labels(context),
        volume=study.volume,
        batch_size=stage.train.batch_size,
        seed=context.round_seed,
    )
    with seeded(device, context.round_seed):
        report = train(
            module,
            sampler,
            study=study,
            stage=stage,
            round_number=context.round,
            device=device,
            progress=context.progress,
            should_stop=context.should_stop,
        )

    # 4. What may leave.
    weights = export(module)
    return RoundResult(weights, samples_of(list(weights), report), metrics_of(report))


def samples_of(names: list[str], report: Report) -> dict[str, int]:
    """Distinct cases per parameter group: a head counts its own label's, other groups count all."""
    groups = dict.fromkeys(group_of(name) for name in names)
    return {
        group: len(report.cases.get(group.removeprefix("head."), ()))
        if group.startswith("head.")
        else len(report.all_cases)
        for group in groups
    }


def metrics_of(report: Report) -> dict[str, float]:
    """``train.*`` of a report."""
    return {
        "train.loss": report.loss,
        "train.cases": len(report.all_cases),
        "train.seconds": report.seconds,
        **{f"train.{label}.loss": value for label, value in report.label_loss.items()},
    }
