"""``distil``: one student learns every label type at every site (FedKD, step C).

Its targets are true labels where there are any and complete pseudo-labels elsewhere, hard in both
cases as in the published code. A site without a label type leaves that head untouched.
"""

from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.rounds import TrainingRecipe
from stillroom.client.training.cases import usable_labels


class Distil(TrainingRecipe):
    """Learns from labelled and pseudo-labelled cases."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """Every label type the student has a head for."""
        return tuple(context.study.student_labels())

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with at least one label, true or pseudo."""
        labels = context.study.student_labels()
        return [i.id for i in candidates if usable_labels(context.store, i, labels)]
