"""Learning from teachers' maps, beside labels: multi-scale contrastive distillation.

arXiv 2406.03173: InfoNCE between teacher and student at bottleneck, encoder and decoder, and softened
outputs. The teachers run here, frozen; no map leaves. The 1x1 projections between their channels and
the student's learn here too, and stay: averaged, those of different sites would not
belong together, and they end with the stage.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import frozen
from stillroom.client.training.contrast import (
    at_one_size,
    contrast,
    on_cells,
    projection,
    soft_maps,
)
from stillroom.client.training.device import Device
from stillroom.client.training.loop import Losses
from stillroom.common.nn.trunk import Features, Scale
from stillroom.common.recipes.contrast import DistilOptions

SCALES: tuple[Scale, ...] = ("bottleneck", "encoder", "decoder")


class Mapped(Protocol):
    """A network that shows its maps."""

    widths: Mapping[Scale, int]
    features: Callable[[Tensor], Features]
    logits: Callable[[Features], dict[str, Tensor]]


class Contrast(nn.Module):
    """The teachers' terms. What it learns, and all that it holds, are the projections.

    Args:
        student: What learns.
        teachers: By stage name; frozen.
        options: The stage's.
    """

    def __init__(
        self, student: Mapped, teachers: Mapping[str, Mapped], options: DistilOptions
    ) -> None:
        super().__init__()
        self._teachers, self._options = dict(teachers), options
        self.projections = nn.ModuleDict(
            {f"of-{name}": _projections(student, one, options) for name, one in teachers.items()}
        )

    @classmethod
    def of_stage(cls, context: RecipeContext, student: nn.Module, device: Device) -> "Contrast":
        """The terms of the stage's teachers, on ``device``."""
        names = context.stage.teachers
        teachers = {name: cast(Mapped, frozen(context, name, device)) for name in names}
        options = context.stage.chosen(DistilOptions)
        return cast(Contrast, device.place(cls(cast(Mapped, student), teachers, options)))

    def terms(self, x: Tensor, features: Features, outputs: Mapping[str, Tensor]) -> Losses:
        """Each term's average over teachers; a term of weight 0 or without a teacher is left out.

        Args:
            x: ``(B, Cin, D, H, W)``, what the student saw.
            features: The student's maps of it.
            outputs: The student's logits.
        """
        found: dict[str, list[Tensor]] = {}
        for name, teacher in self._teachers.items():
            with torch.no_grad():
                theirs = teacher.features(x)
                logits = teacher.logits(theirs)
            for scale, project in cast(nn.ModuleDict, self.projections[f"of-{name}"]).items():
                loss = self._contrast(cast(Scale, scale), features, theirs, project)
                found.setdefault(scale, []).append(loss)
            if self._options.weights.maps:
                soft = self._options.temperature
                for label in logits.keys() & outputs.keys():
                    loss = soft_maps(outputs[label], logits[label], temperature=soft)
                    found.setdefault("maps", []).append(loss)
        return {term: torch.stack(losses).mean() for term, losses in found.items()}

    def _contrast(
        self, scale: Scale, ours: Features, theirs: Features, project: nn.Module
    ) -> Tensor:
        """One scale of one teacher. Averaging commutes with a 1x1 convolution, so it comes first."""
        cells = self._options.grid if self._options.negatives == "cells" else None
        pair = (getattr(ours, scale).float(), getattr(theirs, scale).float())
        student, teacher = at_one_size(*pair) if cells is None else on_cells(*pair, cells)
        # As in the paper: at the decoder the student is brought to the teacher, elsewhere the other way.
        if scale == "decoder":
            student = project(student)
        else:
            teacher = project(teacher)
        return contrast((student, teacher), tau=self._options.tau, cells=cells)


def _projections(student: Mapped, teacher: Mapped, options: DistilOptions) -> nn.ModuleDict:
    layers: dict[str, nn.Module] = {}
    for scale in SCALES:
        ends = teacher.widths[scale], student.widths[scale]
        if getattr(options.weights, scale):
            layers[scale] = projection(*(ends[::-1] if scale == "decoder" else ends))
    return nn.ModuleDict(layers)
