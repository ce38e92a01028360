"""One site's share of one round: a few optimiser steps from the weights that arrived."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from stillroom.client.training.device import Device
from stillroom.client.training.loader import Batches
from stillroom.client.training.losses import Target, label_losses, weighted_sum
from stillroom.client.training.proximal import Proximal
from stillroom.client.training.sampling import Batch
from stillroom.common.errors import DataError, ResourceError
from stillroom.common.study import Stage, Study

BACKGROUND = {"mask": 0.5, "points": 0.01}
"""Weight of background in the cross-entropy, by kind of label. Our choice, measured on the demo's
teachers. Balls fill a thousandth of a patch: at 0.05 one of six points was never found. Chambers
fill much of it: at 0.2 the liver became myocardium at the held-out site (Dice 0.63, here 0.71)."""

Losses = dict[str, Tensor]
"""Label type, or another term of the recipe, -> scalar."""
Step = Callable[[Batch], Losses]
"""What one optimiser step minimises, by label type or term; nothing when a batch has nothing for it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round of training did.

    Attributes:
        loss: Mean weighted loss over steps, a proximal term left out.
        label_loss: Mean loss per label type or term over the steps that had it.
        samples: Label type or term -> samples that put a gradient into it, by identifier: that of
            a case, or ``<case>/<part>`` where the samples are slices or windows.
        seconds: Wall time.
    """

    loss: float
    label_loss: dict[str, float]
    samples: dict[str, frozenset[str]]
    seconds: float

    @property
    def all_samples(self) -> frozenset[str]:
        """Samples that put a gradient into the shared part."""
        return frozenset().union(*self.samples.values())

    @property
    def all_cases(self) -> frozenset[str]:
        """Cases of these samples."""
        return frozenset(one.partition("/")[0] for one in self.all_samples)


def learning_rate(stage: Stage, round_number: int) -> float:
    """Cosine from the stage's rate at round 1 to a tenth of it at the last round."""
    share = (round_number - 1) / max(stage.rounds - 1, 1)
    return stage.train.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(share, 1.0))))


def optimiser_of(module: nn.Module, stage: Stage, round_number: int) -> torch.optim.AdamW:
    """An optimiser without a past over what ``module`` may learn, at the round's learning rate."""
    return torch.optim.AdamW(
        [one for one in module.parameters() if one.requires_grad],
        lr=learning_rate(stage, round_number),
        weight_decay=stage.train.weight_decay,
    )


def train(
    module: nn.Module,
    batches: Batches,
    step: Step,
    *,
    stage: Stage,
    weights: Mapping[str, float],
    optimiser: torch.optim.Optimizer,
    progress: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> Report:
    """Train ``module`` in place for ``stage.train.steps`` steps.

    Args:
        module: All that learns.
        batches: Where batches come from.
        step: The losses of a batch.
        stage: Steps and their rules.
        weights: Of losses by label type or term; 1 when left out.
        optimiser: Over ``module``.
        progress: Told the share done, in [0, 1].
        should_stop: Asked before every step.

    A parameter that no loss reached has no gradient, and AdamW then leaves it alone, decay
    included.

    Raises:
        ResourceError: STR-502, ``should_stop`` said so; ``module`` is then half trained.
        DataError: STR-401, no drawn sample had a label.
    """
    module.train()
    # The module holds the round's global weights now, and only now.
    pull = Proximal(module, stage.train.proximal) if stage.train.proximal else None
    tally = _Tally()
    for number in range(stage.train.steps):
        if should_stop():
            raise ResourceError(
                "This site stopped the round.", fix="Start it again.", code="STR-502"
            )
        batch = batches.draw()
        losses = step(batch)
        if not losses:
            continue
        total = weighted_sum(losses, weights)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        if pull is not None:
            pull.add()
        clip_grad_norm_(module.parameters(), stage.train.clip_norm)
        optimiser.step()
        tally.add(batch, losses, total)
        progress((number + 1) / stage.train.steps)
    return tally.report()


def supervised_step(module: nn.Module, batch: Batch, study: Study, device: Device) -> Losses:
    """Dice and cross-entropy of every label type in ``batch``; other label types have no entry."""
    if not batch.targets:
        return {}
    with device.autocast():
        outputs = module(device.move(batch.x))
    return supervised_losses(outputs, batch, study, device)


def supervised_losses(
    outputs: Mapping[str, Tensor], batch: Batch, study: Study, device: Device
) -> Losses:
    """The same from outputs that are there already."""
    targets = {
        label: Target(target.rows.to(device.kind), target.classes.to(device.kind))
        for label, target in batch.targets.items()
    }
    background = {label: BACKGROUND[known.kind] for label, known in study.voxel_labels().items()}
    return label_losses(outputs, targets, background=background)


class _Tally:
    """What a round has done so far."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._totals: list[float] = []
        self._losses: defaultdict[str, list[float]] = defaultdict(list)
        self._samples: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, batch: Batch, losses: Losses, total: Tensor) -> None:
        """One more step."""
        self._totals.append(total.item())
        for label, loss in losses.items():
            self._losses[label].append(loss.item())
            target = batch.targets.get(label)
            rows = range(len(batch.ids)) if target is None else target.rows.tolist()
            self._samples[label] |= {batch.ids[row] for row in rows}

    def report(self) -> Report:
        """The whole of it."""
        if not self._totals:
            raise DataError(
                "No case of this site has anything for this stage.",
                fix="Nothing to do: the round goes on without this site.",
                code="STR-401",
            )
        return Report(
            loss=fmean(self._totals),
            label_loss={label: fmean(values) for label, values in self._losses.items()},
            samples={label: frozenset(ids) for label, ids in self._samples.items()},
            seconds=time.monotonic() - self._started,
        )
