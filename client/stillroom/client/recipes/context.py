"""What a recipe is given and what it gives back."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.memory import Memory, NoMemory
from stillroom.client.training.device import Device, Setting, choose_device
from stillroom.common.manifest import Weights
from stillroom.common.study import Stage, Study

Role = Literal["train", "held_out"]


def _ignore(_: float) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class RecipeContext:
    """One call of one recipe at one site.

    Attributes:
        study: What the consortium decided.
        stage: The stage being run.
        round: From 1 to ``stage.rounds``.
        store: The site's working copies.
        weights: The stage's global weights, for the recipe to read and to write into; None for
            stages that exchange none.
        teachers: Earlier stage -> its final weights and their SHA-256: what the stage starts from,
            builds on or learns from.
        device: The site's setting.
        seed: Equal seeds, data and weights give equal results on a CPU.
        role: A held-out site trains nothing and is only evaluated.
        keep_pseudo_labels_days: After this, pseudo-labels are deleted rather than used.
        progress: Told the share done, in [0, 1].
        should_stop: Asked before every step; True ends the round.
        memory: What the stage keeps at this site from round to round. What is saved counts when
            the round's answer does, and not before.
    """

    study: Study
    stage: Stage
    round: int
    store: CaseStore
    weights: Weights | None = None
    teachers: Mapping[str, tuple[Weights, str]] = field(default_factory=dict)
    device: Setting = "auto"
    seed: int = 0
    role: Role = "train"
    keep_pseudo_labels_days: float = 7.0
    progress: Callable[[float], None] = _ignore
    should_stop: Callable[[], bool] = _never
    memory: Memory = field(default_factory=NoMemory)

    def choose_device(self) -> Device:
        """Where and how precisely to compute, for the study's patches."""
        return choose_device(self.device, smallest_side=min(self.study.volume.patch))

    @property
    def round_seed(self) -> int:
        """A seed of this stage and round alone, in [0, 2**63)."""
        text = f"{self.seed}/{self.stage.name}/{self.round}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What may leave the site after a call, once the gate has seen it.

    Attributes:
        weights: The manifest's tensors; None for recipes that exchange none.
        samples: Parameter group -> distinct training cases that put a gradient into it; 0 for a
            group that none reached.
        metrics: Numbers named as in ``common.metrics``.
    """

    weights: dict[str, NDArray[Any]] | None
    samples: dict[str, int]
    metrics: dict[str, float]


class Recipe:
    """One way of learning."""

    def run(self, context: RecipeContext) -> RoundResult:
        """One round at one site.

        Raises:
            DataError: STR-401, the site has no case for this stage; the round goes on without it.
        """
        raise NotImplementedError

    def evaluate(self, context: RecipeContext, keep: Path | None = None) -> RoundResult:
        """Scores of the stage's model at this site, without weights.

        Args:
            context: With the model.
            keep: A folder for predictions, which never leave; None to keep none.
        """
        raise NotImplementedError
