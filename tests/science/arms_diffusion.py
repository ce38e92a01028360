"""Arms of the gates D1 to D3: few labels on a diffusion model of unlabelled slices (arXiv 2402.15216).

One denoiser per seed, trained on every slice of many patients without a label. Every arm then learns
the chambers from the same k labelled slices of these patients, in the same order, with the same
network, optimiser, rate and steps; arms differ in what the network starts from and in which part of it
learns. Scores are of other patients of the same hospitals; the sweep over timesteps has patients of its
own. Pure functions: the same arguments, the same numbers on a CPU.

    python -P tests/science/arms_diffusion.py [--seed 0 --seed 1] [--quick | --large] [--device cpu]
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from stillroom.client.recipes.cohort import first_of
from stillroom.client.recipes.pretrain_diffusion import denoising_loss
from stillroom.client.training.device import Device, Setting, choose_device
from stillroom.client.training.losses import dice_and_cross_entropy
from stillroom.client.training.sampling import normalise
from stillroom.common.nn.adapter import Adapted, build_adapter
from stillroom.common.nn.denoiser import TIMESTEPS, Denoiser
from stillroom.common.nn.weights import export, initial
from stillroom.common.study import Study
from stillroom.deploy.phantom.sections import Sections, sections

SITES = ("north", "river", "harbour")
CLASSES = ("LV", "RV", "LA", "RA", "MYO")
LABEL, BACKGROUND = "chambers", 0.5
WINDOW = (-200.0, 600.0)
ARMS = (
    "decoder, pretrained",
    "linear, pretrained",
    "all, pretrained",
    "all, scratch",
    "linear, scratch",
)
"""What learns, and what it starts from. ``linear, scratch`` is a layer on a random network: what of the
linear arm is not the pretraining's. D1 compares the first with ``all, scratch``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes that all arms share; fixed before any seed is run.

    Attributes:
        pool: Patients per hospital without labels; the labelled slices are some of theirs.
        tested, tuned: Patients per hospital for the scores of the arms, and of the timesteps.
        each: Slices per patient.
        side, spacing_mm: Of a slice.
        channels: Of the denoiser.
        pretrain_steps, pretrain_batch, steps, batch: Optimiser steps and slices per step.
        pretrain_rate, rate: Of AdamW; both fall along a cosine.
        few: k for D1, beside 1 % and 10 % of the pool.
        timesteps: For D3.
    """

    pool: int = 40
    tested: int = 8
    tuned: int = 4
    each: int = 8
    side: int = 32
    spacing_mm: float = 6.0
    channels: tuple[int, ...] = (16, 32, 32)
    pretrain_steps: int = 800
    pretrain_batch: int = 8
    steps: int = 120
    batch: int = 8
    pretrain_rate: float = 1e-3
    rate: float = 2e-3
    few: int = 4
    timesteps: tuple[int, ...] = (0, 25, 50, 100, 150, 250)

    @property
    def labelled(self) -> dict[str, int]:
        """Name -> k."""
        slices = self.pool * self.each * len(SITES)
        return {
            f"{self.few} slices": self.few,
            "1 %": max(round(slices / 100), 1),
            "10 %": max(round(slices / 10), 1),
        }


LARGE = Plan(
    pool=100,
    tested=20,
    tuned=10,
    side=64,
    spacing_mm=3.0,
    channels=(64, 128, 128),
    pretrain_steps=20_000,
    pretrain_batch=64,
    steps=600,
)
"""For a GPU."""
QUICK = Plan(pool=6, tested=2, tuned=2, pretrain_steps=40, steps=20, timesteps=(0, 50))


@dataclass(frozen=True, slots=True)
class Data:
    """What one seed learns from and is scored on: no patient in two parts."""

    pool: Sections
    test: Sections
    tune: Sections


class Whole(nn.Module):
    """A denoiser and a layer, all of which learns.

    Args:
        denoiser: With whatever weights.
        adapter: Whose layer it takes.
    """

    def __init__(self, denoiser: Denoiser, adapter: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.heads = denoiser, adapter.get_submodule("heads")

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits as ``Adapted`` gives them."""
        layer = self.heads.get_submodule(LABEL)
        return {LABEL: layer(self.denoiser.features(x).decoder)}


def run(seed: int, plan: Plan = Plan(), *, device: Setting = "cpu") -> dict[str, Any]:
    """Every arm on one seed.

    Returns:
        ``D1``: k -> arm -> ``dice``, its mean over patients, and ``patients``. ``D3``: timestep -> mean
        Dice of the linear and the decoder arm at 1 %. ``bytes``: arm -> what a site would send in
        one round. ``pretrain``: loss of the denoiser, at the start and at the end; seconds.
    """
    where, data = choose_device(device), gather(seed, plan)
    began = time.monotonic()
    fresh = initial(lambda: Denoiser(plan.channels), seed)
    denoiser, losses = pretrained(copy.deepcopy(fresh), data.pool, plan, seed=seed, device=where)
    seconds = time.monotonic() - began
    backbones = {"pretrained": denoiser, "scratch": fresh}
    first: dict[str, Any] = {}
    sent: dict[str, int] = {}
    for name, k in plan.labelled.items():
        chosen = labelled(data.pool, k, seed)
        first[name] = {}
        for arm in ARMS:
            network, sent[arm] = learned(arm, backbones, chosen, plan, seed=seed, device=where)
            patients = dice(network, data.test, where)
            first[name][arm] = {"dice": float(np.mean(patients)), "patients": patients}
    return {
        "D1": first,
        "D3": sweep(backbones, data, plan, seed=seed, device=where),
        "bytes": sent,
        "pretrain": {"first": losses[0], "last": losses[1], "seconds": seconds},
    }


def sweep(
    backbones: Mapping[str, nn.Module], data: Data, plan: Plan, *, seed: int, device: Device
) -> dict[str, dict[str, float]]:
    """Timestep -> mean Dice of each arm that keeps the encoder, with 1 % labelled: D3's curve.

    What ``stillroom-server study sweep --option timestep`` prepares as studies, in this process.
    """
    chosen = labelled(data.pool, plan.labelled["1 %"], seed)
    curve: dict[str, dict[str, float]] = {}
    for timestep in plan.timesteps:
        curve[str(timestep)] = {}
        for arm in ("linear, pretrained", "decoder, pretrained"):
            network, _ = learned(
                arm, backbones, chosen, plan, seed=seed, device=device, timestep=timestep
            )
            curve[str(timestep)][arm] = float(np.mean(dice(network, data.tune, device)))
    return curve


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """What the gates compare, of one seed.

    Returns:
        ``D1 <k>``: Dice of the decoder arm over that from scratch, > 1 wanted at few labels; ``D1 shrinks``:
        the gain at the fewest labels less that at the most, > 0 wanted. ``D2 ...``: label efficiency of
        the decoder arm, the paper's being .911 and .660. ``D3 gain``: the best timestep over the worst.
    """
    d1 = {k: {arm: one["dice"] for arm, one in arms.items()} for k, arms in results["D1"].items()}
    gains = {
        k: arms["decoder, pretrained"] / max(arms["all, scratch"], 1e-6) for k, arms in d1.items()
    }
    few, some, many = d1
    best = {k: d1[k]["decoder, pretrained"] for k in d1}
    curve = [one["decoder, pretrained"] for one in results["D3"].values()]
    return {
        **{f"D1 {k}": gain for k, gain in gains.items()},
        "D1 shrinks": gains[few] - gains[many],
        "D2 1 % / 10 %": best[some] / max(best[many], 1e-6),
        "D2 few / 10 %": best[few] / max(best[many], 1e-6),
        "D3 gain": max(curve) / max(min(curve), 1e-6),
    }


def pretrained(
    denoiser: Denoiser, pool: Sections, plan: Plan, *, seed: int, device: Device
) -> tuple[Denoiser, tuple[float, float]]:
    """``denoiser`` trained on slices alone, and its mean loss over the first and the last tenth."""
    device.place(denoiser).train()
    generator = torch.Generator().manual_seed(seed)
    images = picture(pool.hu)
    losses = []

    def loss(rng: np.random.Generator) -> Tensor:
        clean = images[rng.integers(0, len(images), plan.pretrain_batch)][:, None]
        times = torch.randint(TIMESTEPS, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        found = denoising_loss(denoiser, clean, times, noise, device=device)
        losses.append(found.item())
        return found

    optimise(denoiser, loss, seed=seed, steps=plan.pretrain_steps, rate=plan.pretrain_rate)
    tenth = max(len(losses) // 10, 1)
    return denoiser.eval(), (float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:])))


def learned(
    arm: str,
    backbones: Mapping[str, nn.Module],
    chosen: Sections,
    plan: Plan,
    *,
    seed: int,
    device: Device,
    timestep: int = 0,
) -> tuple[nn.Module, int]:
    """What one arm learned from labelled slices, and the bytes of its exchanged tensors."""
    what, start = arm.split(", ")
    how = "decoder" if what == "decoder" else "linear"
    study = study_of(plan, seed, how=how, timestep=timestep)
    adapter = initial(lambda: build_adapter(study, study.stage_named("onto")), seed)
    backbone = copy.deepcopy(backbones[start])
    device.place(backbone)
    device.place(adapter)
    exchanged: nn.Module = adapter
    if what == "all":
        exchanged = network = Whole(backbone, adapter)  # type: ignore[arg-type]
    else:
        backbone.eval().requires_grad_(requires_grad=False)
        adapter.begin(backbone)  # type: ignore[operator]
        network = Adapted(backbone, adapter)  # type: ignore[arg-type, assignment]
    network.train()

    def loss(rng: np.random.Generator) -> Tensor:
        x, classes = draw(chosen, plan.batch, rng)
        with device.autocast():
            logits = network(x.to(device.kind))[LABEL]
        return dice_and_cross_entropy(logits, classes.to(device.kind), background=BACKGROUND)

    optimise(exchanged, loss, seed=seed, steps=plan.steps, rate=plan.rate)
    return network.eval(), sum(value.nbytes for value in export(exchanged).values())


def optimise(
    module: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    *,
    seed: int,
    steps: int,
    rate: float,
) -> None:
    """The same optimiser, schedule and order of slices for every arm."""
    learnt = [one for one in module.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng([seed, 4])
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loss(rng).backward()
        nn.utils.clip_grad_norm_(learnt, 5.0)
        optimiser.step()
        schedule.step()


def gather(seed: int, plan: Plan) -> Data:
    """Patients of one seed, from every hospital."""
    parts: dict[str, list[Sections]] = {"pool": [], "test": [], "tune": []}
    counts = {"pool": plan.pool, "test": plan.tested, "tune": plan.tuned}
    for number, site in enumerate(SITES):
        at = 1_000_000 * (seed + 1) + 10_000 * number
        for part, count in counts.items():
            made = sections(
                range(at, at + count),
                site,
                each=plan.each,
                size=plan.side,
                spacing_mm=plan.spacing_mm,
            )
            parts[part].append(made)
            at += count
    return Data(**{name: _joined(found) for name, found in parts.items()})


def labelled(pool: Sections, k: int, seed: int) -> Sections:
    """K slices of the pool; fewer are always among more."""
    names = [str(number) for number in range(len(pool.hu))]
    picks = np.array([int(name) for name in first_of(names, seed=seed, most=k)])
    return Sections(*(array[picks] for array in _arrays(pool)))


def draw(data: Sections, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random slices, shifted by up to 2 pixels and in another contrast; and their classes."""
    images, maps = [], []
    for pick in rng.integers(0, len(data.hu), count):
        shift = tuple(int(v) for v in rng.integers(-2, 3, 2))
        x = picture(np.roll(data.hu[pick], shift, (0, 1)))
        images.append(x * float(np.exp(rng.normal(0, 0.1))) + float(rng.normal(0, 0.05)))
        maps.append(torch.from_numpy(np.roll(data.chambers[pick], shift, (0, 1))).long())
    return torch.stack(images)[:, None, None], torch.stack(maps)[:, None]


def dice(network: nn.Module, test: Sections, device: Device) -> list[float]:
    """Each patient's mean Dice over the classes that it shows, slices together."""
    found = []
    with torch.no_grad():
        for part in picture(test.hu)[:, None, None].split(64):
            found.append(network(part.to(device.kind))[LABEL].argmax(1)[:, 0].cpu())
    classes = torch.cat(found).numpy()
    return list(_per_patient(classes, test))


def _per_patient(classes: NDArray[Any], test: Sections) -> Iterator[float]:
    for patient in np.unique(test.patients):
        here = test.patients == patient
        pairs = [(classes[here] == k, test.chambers[here] == k) for k in range(1, len(CLASSES) + 1)]
        shown = [(a, b) for a, b in pairs if b.any()]
        if shown:
            yield float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in shown]))


def picture(hu: NDArray[np.int16]) -> Tensor:
    """Hounsfield units as the networks see them."""
    return normalise(torch.from_numpy(np.ascontiguousarray(hu)), WINDOW)


def study_of(plan: Plan, seed: int, *, how: str, timestep: int) -> Study:
    """The two stages as a study has them."""
    return Study.parse(
        {
            "study": {"name": "diffusion-arms", "seed": seed},
            "volume": {
                "spacing_mm": [plan.spacing_mm] * 3,
                "patch": [plan.side, plan.side, 1],
                "hu_window": list(WINDOW),
            },
            "label": {LABEL: {"kind": "mask", "classes": list(CLASSES)}},
            "model": {"denoiser": {"arch": "diffusion-unet", "channels": list(plan.channels)}},
            "stage": [
                {"name": "dream", "recipe": "pretrain_diffusion"},
                {
                    "name": "onto",
                    "recipe": "adapt",
                    "label": LABEL,
                    "backbone": "dream",
                    "options": {"how": how, "timestep": timestep},
                },
            ],
        }
    )


def _arrays(data: Sections) -> tuple[NDArray[Any], ...]:
    return data.hu, data.chambers, data.vessels, data.patients


def _joined(parts: list[Sections]) -> Sections:
    return Sections(*(np.concatenate(column) for column in zip(*map(_arrays, parts), strict=True)))


def main() -> int:
    """A line of JSON for every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    plan = QUICK if options.quick else LARGE if options.large else Plan()
    for seed in options.seed or [0]:
        found = run(seed, plan, device=options.device)
        row = {"seed": seed, "ratios": ratios(found), **found}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
