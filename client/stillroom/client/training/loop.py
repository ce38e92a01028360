"""One site's share of one round: a few optimiser steps from the weights that arrived."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from stillroom.client.training.device import Device
from stillroom.client.training.losses import Target, label_losses, weighted_sum
from stillroom.client.training.sampling import Sampler
from stillroom.common.errors import DataError, ResourceError
from stillroom.common.study import Stage, Study

BACKGROUND = {"mask": 0.2, "points": 0.01}
"""Weight of background in the cross-entropy, by kind of label. Our choice: balls fill a thousandth of
a patch, and at 0.05 the demo's landmark teacher never found one of six points."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a round of training did.

    Attributes:
        loss: Mean weighted loss over steps.
        label_loss: Mean loss per label type over the steps that saw it.
        cases: Label type -> cases that put a gradient into its head.
        seconds: Wall time.
    """

    loss: float
    label_loss: dict[str, float]
    cases: dict[str, frozenset[str]]
    seconds: float

    @property
    def all_cases(self) -> frozenset[str]:
        """Cases that put a gradient into the shared part."""
        return frozenset().union(*self.cases.values())


def learning_rate(stage: Stage, round_number: int) -> float:
    """Cosine from the stage's rate at round 1 to a tenth of it at the last round."""
    share = (round_number - 1) / max(stage.rounds - 1, 1)
    return stage.train.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(share, 1.0))))


def train(
    module: nn.Module,
    sampler: Sampler,
    *,
    study: Study,
    stage: Stage,
    round_number: int,
    device: Device,
    progress: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> Report:
    """Train ``module`` in place for ``stage.train.steps`` steps.

    The optimiser is fresh in every round, as FedAvg has it: its moments belong to weights that
    the average has replaced.

    Raises:
        ResourceError: STR-502, ``should_stop`` said so; ``module`` is then half trained.
        DataError: STR-401, no drawn sample had a label.
    """
    started = time.monotonic()
    module.train()
    optimiser = torch.optim.AdamW(
        module.parameters(),
        lr=learning_rate(stage, round_number),
        weight_decay=stage.train.weight_decay,
    )
    background = {label: BACKGROUND[known.kind] for label, known in study.label.items()}
    total, sums, counts = 0.0, dict.fromkeys(study.label, 0.0), dict.fromkeys(study.label, 0)
    cases: dict[str, set[str]] = {label: set() for label in study.label}
    for step in range(stage.train.steps):
        if should_stop():
            raise ResourceError(
                "This site stopped the round.", fix="Start it again.", code="STR-502"
            )
        batch = sampler.draw()
        if not batch.targets:
            continue
        with device.autocast():
            outputs = module(device.move(batch.x))
        targets = {
            label: Target(target.rows.to(device.kind), target.classes.to(device.kind))
            for label, target in batch.targets.items()
        }
        losses = label_losses(outputs, targets, background=background)
        loss = weighted_sum(losses, stage.label_weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_grad_norm_(module.parameters(), stage.train.clip_norm)
        optimiser.step()
        total += loss.item()
        for label, value in losses.items():
            sums[label] += value.item()
            counts[label] += 1
            cases[label] |= {batch.ids[row] for row in batch.targets[label].rows.tolist()}
        progress((step + 1) / stage.train.steps)
    steps = max(counts.values())
    if steps == 0:
        raise DataError(
            "No case of this site has a label of this stage.",
            fix="Nothing to do: the round goes on without this site.",
            code="STR-401",
        )
    return Report(
        loss=total / steps,
        label_loss={label: sums[label] / n for label, n in counts.items() if n},
        cases={label: frozenset(ids) for label, ids in cases.items() if ids},
        seconds=time.monotonic() - started,
    )
