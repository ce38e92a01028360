"""``teach``: one CNN learns one label type at the sites that own it (FedKD, step A)."""

from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.rounds import TrainingRecipe


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
