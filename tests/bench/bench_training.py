"""What the platform costs a site that trains: samples a second beside the same loop run bare.

Both ways train the same network on the same patches with the same losses and optimiser, in one
process. ``bare`` is what a notebook does: draw, forward, backward, step. ``stillroom`` is
``TrainingRecipe.run``: it also reads the working copies' state, loads the global weights into the
network, asks whether to stop, counts cases, computes deterministically and exports the result.
The weights of both are compared to the last bit.

    python tests/bench/bench_training.py [--patch 48] [--steps 10] [--pairs 12] [--threads 2]

The two take turns in short repetitions, and whoever was first in one pair is second in the next. A
pair gives one ratio of throughputs, in wall time and in processor time; what is reported is the
median over pairs, so that a machine which does other things meanwhile disturbs few of them. Ends
with a JSON line; ``ratio`` is of wall time, which is what a site waits for, ``cpu_ratio`` of
processor time. The bar is 0.97, and it fails when either of them is below.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.loop import BACKGROUND, learning_rate
from stillroom.client.training.losses import Target, label_losses, weighted_sum
from stillroom.client.training.sampling import Batch, Sampler
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, load
from stillroom.common.study import Study

BAR = 0.97
SPACING = (1.5, 1.5, 1.5)
SIDE = 112


def study_of(patch: int, steps: int, feature_size: int) -> Study:
    """A student that learns two masks and a point."""
    return Study.parse(
        {
            "study": {"name": "bench", "validation_fraction": 0.0},
            "volume": {"spacing_mm": SPACING, "patch": [patch] * 3, "hu_window": [-300, 700]},
            "label": {
                "chambers": {"kind": "mask", "classes": ["inner", "outer"]},
                "vessels": {"kind": "mask", "classes": ["aorta"]},
                "landmarks": {"kind": "points", "names": ["middle"], "radius_mm": 6.0},
            },
            "model": {"student": {"arch": "light-swin", "feature_size": feature_size}},
            "stage": [{"name": "student", "recipe": "distil", "train": {"steps": steps}}],
        }
    )


def fill(folder: Path, cases: int) -> CaseStore:
    """Balls within balls, on a grid as large as a cropped heart."""
    store, rng, axis = CaseStore(folder), np.random.default_rng(7), np.arange(SIDE)
    for number in range(cases):
        centre = rng.uniform(SIDE / 3, 2 * SIDE / 3, 3)
        z, y, x = ((axis - c) ** 2 for c in centre)
        distance = np.sqrt(z[:, None, None] + y[None, :, None] + x[None, None])
        chambers = (distance < 30).astype(np.uint8) + (distance < 18)
        vessels = ((y[None, :, None] + x[None, None] < 60) & (distance > 30)).astype(np.uint8)
        image = 200.0 * chambers + 300.0 * vessels - 100 + rng.normal(0, 20, distance.shape)
        point = tuple(float(c) * s for c, s in zip(centre[::-1], SPACING, strict=True))
        info = CaseInfo(
            id=f"case{number:02d}",
            shape=(SIDE, SIDE, SIDE),
            spacing_mm=SPACING,
            origin_mm=(0.0, 0.0, 0.0),
            masks=("chambers", "vessels"),
            points={"landmarks": {"middle": point}},
        )
        store.write_case(info, image.astype(np.int16), {"chambers": chambers, "vessels": vessels})
    return store


class Bare:
    """The loop a notebook has, around the same parts."""

    def __init__(self, context: RecipeContext) -> None:
        self.context, self.device = context, context.choose_device()
        self.module = self.device.place(module_of(context.study, context.stage))
        names = context.study.label.items()
        self.background = {name: BACKGROUND[label.kind] for name, label in names}

    def sampler(self) -> Sampler:
        """The patches that the recipe draws, in its order."""
        study, stage = self.context.study, self.context.stage
        return Sampler(
            self.context.store.ids(),
            WorkingSet.of_stage(self.context.store, study, stage).case,
            labels=tuple(study.student_labels()),
            volume=study.volume,
            batch_size=stage.train.batch_size,
            seed=self.context.round_seed,
        )

    def train(self, draw: Callable[[], Batch]) -> None:
        """``steps`` steps from the context's weights."""
        wanted = self.context.stage.train
        self.module.train()
        optimiser = torch.optim.AdamW(
            self.module.parameters(),
            lr=learning_rate(self.context.stage, 1),
            weight_decay=wanted.weight_decay,
        )
        for _ in range(wanted.steps):
            batch = draw()
            with self.device.autocast():
                outputs = self.module(self.device.move(batch.x))
            targets = {
                name: Target(t.rows.to(self.device.kind), t.classes.to(self.device.kind))
                for name, t in batch.targets.items()
            }
            loss = weighted_sum(label_losses(outputs, targets, background=self.background), {})
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(self.module.parameters(), wanted.clip_norm)
            optimiser.step()
            loss.item()


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds that ``work`` takes, what it started on a device included."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, time.process_time() - cpu


def pairs_of(
    context: RecipeContext, pairs: int
) -> tuple[dict[str, list[tuple[float, float]]], bool]:
    """Wall and CPU seconds of both ways in every pair, and whether all gave the same weights."""
    bare, recipe = Bare(context), RECIPES["distil"]
    weights = context.weights or {}
    seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "stillroom": []}
    equal = True
    for pair in range(-1, pairs):
        found: dict[str, dict[str, bytes]] = {}
        for name in sorted(seconds, reverse=pair % 2 == 1):
            kept: dict[str, NDArray[np.float32]] = {}
            load(bare.module, weights)

            def ours(kept: dict[str, NDArray[np.float32]] = kept) -> None:
                kept.update(recipe.run(context).weights)

            took = clock((lambda: bare.train(bare.sampler().draw)) if name == "bare" else ours)
            result = kept if name == "stillroom" else export(bare.module)
            found[name] = {key: value.tobytes() for key, value in result.items()}
            if pair >= 0:  # the first warms caches and compiles kernels
                seconds[name].append(took)
        equal &= found["bare"] == found["stillroom"]
    return seconds, equal


def main() -> int:
    """Run and print a JSON line; fails when a ratio is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--feature-size", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    study = study_of(arguments.patch, arguments.steps, arguments.feature_size)
    stage = study.stage[0]
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder), 4)
        weights = export(initial(lambda: module_of(study, stage), 1))
        context = RecipeContext(study, stage, 1, store, weights=weights)
        seconds, equal = pairs_of(context, arguments.pairs)
    samples = arguments.steps * stage.train.batch_size
    both = list(zip(seconds["bare"], seconds["stillroom"], strict=True))
    wall, cpu = ([bare[i] / ours[i] for bare, ours in both] for i in (0, 1))
    ratio, cpu_ratio = statistics.median(wall), statistics.median(cpu)
    result = {
        "device": context.choose_device().reason,
        "threads": arguments.threads,
        "patch": arguments.patch,
        "steps": arguments.steps,
        "pairs": arguments.pairs,
        **{
            f"{name}_samples_per_s": round(samples / statistics.median(t for t, _ in values), 3)
            for name, values in seconds.items()
        },
        "ratio": round(ratio, 4),
        "ratios": [round(one, 3) for one in wall],
        "cpu_ratio": round(cpu_ratio, 4),
        "cpu_ratios": [round(one, 3) for one in cpu],
        "bar": BAR,
        "same_weights": equal,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if min(ratio, cpu_ratio) >= BAR and equal else 1


if __name__ == "__main__":
    sys.exit(main())
