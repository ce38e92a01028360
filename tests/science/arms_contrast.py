"""Arms of the gates M1 to M3: a student with and without its teacher's maps (arXiv 2406.03173).

The published comparison gave the two students other optimisers, batches and losses. Here every student
sees the same slices in the same order with the same optimiser, steps, rate and augmentation; what
differs is the loss. Patients are split, never slices.
Pure functions: the same arguments give the same numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillroom.client.recipes.contrast import Contrast
from stillroom.client.training.device import choose_device
from stillroom.client.training.loop import supervised_losses
from stillroom.client.training.losses import Target
from stillroom.client.training.sampling import Batch, normalise
from stillroom.common.nn.pocket import PocketUnet, SliceTeacher
from stillroom.common.nn.trunk import Features
from stillroom.common.nn.weights import initial
from stillroom.common.recipes.contrast import TERMS, DistilOptions, TermWeights
from stillroom.common.study import Study
from stillroom.deploy.phantom.sections import Sections, sections

LABEL, CLASSES = "chambers", ("LV", "RV", "LA", "RA", "MYO")
S1, S2 = (16, 32, 64), (32, 64, 128)
SIDE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes that all arms share; fixed before any seed is run.

    Attributes:
        patients: Of the teacher; the students have the first half of them, as in the paper.
        tested: Patients that nobody learned from.
        each: Slices per patient.
        teacher_steps, steps: Optimiser steps of the teacher and of every student.
        batch: Slices per step.
        learning_rate: Of AdamW, for all.
        teacher: Channels of T1, smaller than the paper's.
        scanner: Style of all patients; tune on another one than is reported.
    """

    patients: int = 16
    tested: int = 12
    each: int = 6
    teacher_steps: int = 400
    steps: int = 300
    batch: int = 8
    learning_rate: float = 2e-3
    teacher: tuple[int, ...] = (16, 32, 64, 128)
    scanner: str = "north"


def arms(options: DistilOptions | None = None) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Arm -> the student's channels and what its teacher adds; None: labels alone.

    ``S1 images`` has the published negatives; ``S1 <scale>`` one term alone; ``S1 mse`` matches the
    encoders' maps instead of contrasting them.
    """
    known = options or DistilOptions()
    found: dict[str, tuple[tuple[int, ...], Any]] = {
        "S1": (S1, None),
        "S2": (S2, None),
        "S1 KD": (S1, known),
        "S2 KD": (S2, known),
        "S1 images": (S1, known.model_copy(update={"negatives": "images"})),
    }
    for term in TERMS:
        alone = TermWeights(**{one: getattr(known.weights, one) * (one == term) for one in TERMS})
        found[f"S1 {term}"] = (S1, known.model_copy(update={"weights": alone}))
    return {**found, "S1 mse": (S1, "mse")}


def run(seed: int, plan: Plan = Plan(), only: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every arm on one seed: arm -> mean Dice, Dice of each patient, and parameters.

    Args:
        seed: Of patients, weights, order and augmentation.
        plan: Sizes.
        only: Arms as ``arms`` gives them; all when left out.
    """
    first = 10_000 * (seed + 1)
    learned = range(first, first + plan.patients)
    data = sections(learned, plan.scanner, each=plan.each, size=SIDE)
    half = data.of(list(learned)[: plan.patients // 2])
    tested = range(first + 5_000, first + 5_000 + plan.tested)
    test = sections(tested, plan.scanner, each=plan.each, size=SIDE)

    outputs = 1 + len(CLASSES)
    teacher = initial(
        lambda: SliceTeacher(LABEL, outputs, in_channels=1, channels=plan.teacher), seed
    )
    learn(teacher, data, plan, seed=seed, steps=plan.teacher_steps)
    teacher.eval().requires_grad_(requires_grad=False)
    results = {"teacher": score(teacher, test)}
    for name, (channels, extra) in (only or arms()).items():
        student = initial(lambda c=channels: PocketUnet(1, {LABEL: outputs}, c), seed)
        learn(student, half, plan, seed=seed, steps=plan.steps, teacher=teacher, extra=extra)
        results[name] = score(student, test)
    return results


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """What the gates compare, of one seed."""
    dice = {name: result["dice"] for name, result in results.items()}
    pairs = {
        "M1 S1": ("S1 KD", "S1"),
        "M1 S2": ("S2 KD", "S2"),
        "M2": ("S1 KD", "S2"),
        "M3 InfoNCE over MSE": ("S1 encoder", "S1 mse"),
        "M3 images over cells": ("S1 images", "S1 KD"),
        **{f"M3 {term}": (f"S1 {term}", "S1") for term in TERMS},
    }
    known = {n: (a, b) for n, (a, b) in pairs.items() if a in dice and b in dice}
    return {name: dice[a] / max(dice[b], 1e-6) for name, (a, b) in known.items()}


def learn(
    network: Any,
    data: Sections,
    plan: Plan,
    *,
    seed: int,
    steps: int,
    teacher: Any = None,
    extra: DistilOptions | str | None = None,
) -> None:
    """Train ``network`` in place; batches depend on ``seed`` alone, whatever the arm."""
    device, study = choose_device("cpu", smallest_side=SIDE), _study()
    terms, supervised = _terms(network, teacher, extra, seed)
    parameters = [*network.parameters(), *(terms.parameters() if terms is not None else ())]
    optimiser = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng([seed, 7])
    network.train()
    for _ in range(steps):
        batch = draw(data, plan.batch, rng)
        features = network.features(batch.x)
        outputs = network.logits(features)
        loss = supervised * supervised_losses(outputs, batch, study, device)[LABEL]
        if terms is not None:
            loss = loss + terms(batch.x, features, outputs)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        schedule.step()


class Weighed(nn.Module):
    """The product's own terms, summed with their weights."""

    def __init__(self, contrast: Contrast, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.contrast, self.weights = contrast, dict(weights)

    def forward(self, x: Tensor, features: Features, outputs: Mapping[str, Tensor]) -> Tensor:
        """Their weighted sum."""
        losses = self.contrast.terms(x, features, outputs)
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


class Matched(nn.Module):
    """Mean squared error of the encoders' maps, each voxel's vector at length 1.

    The student is projected to the teacher: the other way round, a teacher projected to nothing would
    match any student.
    """

    def __init__(self, student: Any, teacher: Any, weight: float) -> None:
        super().__init__()
        self.project = nn.Conv3d(student.widths["encoder"], teacher.widths["encoder"], 1)
        self._teacher, self.weight = [teacher], weight

    def forward(self, x: Tensor, features: Features, _: Mapping[str, Tensor]) -> Tensor:
        """The weighted squared distance of the encoders' maps, summed over channels."""
        with torch.no_grad():
            theirs = self._teacher[0].features(x).encoder
        ours, theirs = (
            nn.functional.normalize(m) for m in (self.project(features.encoder), theirs)
        )
        return self.weight * theirs.shape[1] * nn.functional.mse_loss(ours, theirs)


def _terms(
    student: Any, teacher: Any, extra: DistilOptions | str | None, seed: int
) -> tuple[Callable[..., Tensor] | Any, float]:
    """What is added to the labels' loss, and the weight that this loss has then."""
    if extra is None:
        return None, 1.0
    known = DistilOptions()
    if isinstance(extra, str):
        weight = known.weights.encoder
        return initial(lambda: Matched(student, teacher, weight), seed), known.supervised
    made = initial(lambda: Contrast(student, {"teacher": teacher}, extra), seed)
    return Weighed(made, extra.weights.model_dump()), extra.supervised  # type: ignore[arg-type]


def draw(data: Sections, count: int, rng: np.random.Generator) -> Batch:
    """Random slices, shifted by up to 4 pixels and in another contrast."""
    picks = rng.integers(0, len(data.hu), count)
    images, maps = [], []
    for pick in picks:
        shift = tuple(int(v) for v in rng.integers(-4, 5, 2))
        x = normalise(torch.from_numpy(np.roll(data.hu[pick], shift, (0, 1))), (-200, 600))
        images.append(x * float(np.exp(rng.normal(0, 0.1))) + float(rng.normal(0, 0.05)))
        maps.append(torch.from_numpy(np.roll(data.chambers[pick], shift, (0, 1))).long())
    target = Target(torch.arange(count), torch.stack(maps)[:, None])
    return Batch(torch.stack(images)[:, None, None], {LABEL: target}, tuple(map(str, picks)))


def score(network: Any, test: Sections) -> dict[str, Any]:
    """Mean Dice over classes and patients, each patient's slices together."""
    network.eval()
    x = normalise(torch.from_numpy(test.hu), (-200, 600))[:, None, None]
    with torch.no_grad():
        found = torch.cat([network(part)[LABEL].argmax(1)[:, 0] for part in x.split(32)]).numpy()
    each = []
    for patient in np.unique(test.patients):
        here = test.patients == patient
        ours, truth = found[here], test.chambers[here]
        there = [k for k in range(1, 1 + len(CLASSES)) if (truth == k).any()]
        pairs = [(ours == k, truth == k) for k in there]
        each.append(float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])))
    values = sum(p.numel() for p in network.parameters())
    return {"dice": float(np.mean(each)), "patients": each, "parameters": values}


def _study() -> Study:
    """The least that a loss has to know."""
    return Study.parse(
        {
            "study": {"name": "arms"},
            "volume": {"spacing_mm": [3, 3, 3], "patch": [SIDE, SIDE, 1]},
            "label": {LABEL: {"kind": "mask", "classes": list(CLASSES)}},
            "model": {"student": {"arch": "pocket-unet", "channels": list(S1)}},
            "stage": [{"name": "student", "recipe": "distil"}],
        }
    )
