"""``distil``: one student learns every label type at every site (FedKD, step C).

Its targets are true labels where there are any and complete pseudo-labels elsewhere, hard in both
cases as in the published code. A site without a label type leaves that head untouched, unless a
teacher of that label is named: then the student also learns from the teachers' maps
(``recipes.contrast``), for which no label is needed.
"""

from dataclasses import replace
from typing import cast

from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.recipes.contrast import Contrast
from stillroom.client.recipes.rounds import Learner, TrainingRecipe
from stillroom.client.training.cases import usable_labels
from stillroom.client.training.device import Device
from stillroom.client.training.loop import Losses, supervised_losses
from stillroom.client.training.sampling import Batch
from stillroom.common.nn.trunk import Student
from stillroom.common.recipes.contrast import DistilOptions


class Distil(TrainingRecipe):
    """Learns from labelled and pseudo-labelled cases, and from its teachers on all."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """Every label type the student has a head for."""
        return tuple(context.study.student_labels())

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with at least one label, true or pseudo; with teachers all, if the stage says so."""
        if context.stage.teachers and context.stage.chosen(DistilOptions).unlabelled:
            return [info.id for info in candidates]
        labels = context.study.student_labels()
        return [i.id for i in candidates if usable_labels(context.store, i, labels)]

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """The student, and beside it the projections that stay here when it has teachers."""
        plain, stage = super().learner(context, device), context.stage
        if not stage.teachers:
            return plain
        student, options = cast(Student, plain.exchanged), stage.chosen(DistilOptions)
        terms = Contrast.of_stage(context, student, device)

        def step(batch: Batch) -> Losses:
            x = device.move(batch.x)
            with device.autocast():
                features = student.features(x)
                outputs = student.logits(features)
            labels = supervised_losses(outputs, batch, context.study, device)
            return labels | terms.terms(x, features, outputs)

        own = {name: stage.label_weights.get(name, 1.0) for name in self.labels(context)}
        weights = {name: weight * options.supervised for name, weight in own.items()}
        return Learner(student, step, private=terms, weights=weights | options.weights.model_dump())

    @override
    def run(self, context: RecipeContext) -> RoundResult:
        """One round; softened maps put a gradient into their teachers' heads from every sample."""
        result, stage = super().run(context), context.stage
        if not stage.chosen(DistilOptions).weights.maps:
            return result
        taught = {f"head.{context.study.stage_named(name).label}" for name in stage.teachers}
        everyone = result.samples["encoder"]
        samples = {g: everyone if g in taught else n for g, n in result.samples.items()}
        return replace(result, samples=samples)
