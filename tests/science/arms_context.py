"""Arms for two claims of masked context modelling with distillation (arXiv 2403.05325).

C1: after one epoch of it, a frozen extractor classifies bags better than before it.
C2: it classifies them about as well as the larger teacher that it learned from.

On phantoms half of whose patients have no calcium: the class of a scan is whether there is any.
Patients of the teacher's labels, of the warm-up and of the bags' training and test are all different
ones. Every arm trains the same pool and head, with the same seed, optimiser and steps, on vectors of
a frozen extractor; arms differ in that extractor alone. The paper's extractor before adaptation was
trained on natural images; there is none of these here, so ours is as the seed made it. An arm
``scratch``, in which the same encoder learns with the head, tells whether freezing costs anything.

    python -P tests/science/arms_context.py [--seed 0 --seed 1] [--quick]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.pretrain_context import PretrainContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.targets import Grid
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial
from stillroom.common.study import Study
from stillroom.deploy.phantom.anatomy import draw_patient
from stillroom.deploy.phantom.painting import CHAMBERS, paint, place_grid
from stillroom.deploy.phantom.scanner import SCANNERS

Weights = dict[str, NDArray[Any]]
LABEL, CLASSES = "calcium", ("none", "some")
SCANNER_OF = tuple(SCANNERS)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything.

    Attributes:
        side, spacing_mm: Of a phantom in plane.
        taught, warmed, trained, tested: Patients of each part.
        teacher_steps, bag_steps: Optimiser steps; the warm-up's are the number of its windows.
    """

    side: int
    spacing_mm: float
    taught: int
    warmed: int
    trained: int
    tested: int
    teacher_steps: int
    bag_steps: int


QUICK = Sizes(48, 4.0, 4, 6, 12, 12, 20, 20)
FULL = Sizes(64, 3.0, 12, 32, 48, 48, 200, 150)


def study_of(sizes: Sizes, *, warm_steps: int) -> Study:
    """The stages of all arms; fixed before any seed is run."""
    tile, mm = 16, sizes.spacing_mm
    bags: dict[str, Any] = {
        "recipe": "bags",
        "label": LABEL,
        "train": {"steps": sizes.bag_steps, "batch_size": 4, "learning_rate": 2e-3},
    }
    options = {"tile": tile, "most_tiles": 16, "width": 32}
    frozen = {**options, "train_extractor": False}
    return Study.parse(
        {
            "study": {"name": "context-arms", "validation_fraction": 0.0},
            "volume": {
                "spacing_mm": [mm] * 3,
                "patch": [32, 32, 32],
                "hu_window": [-200, 1000],
                "roi": "heart",
                "margin_mm": 0.0,
            },
            "label": {
                LABEL: {"kind": "bag", "classes": list(CLASSES)},
                "chambers": {"kind": "mask", "classes": list(CHAMBERS)},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [16, 32, 64]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {
                    "name": "teacher",
                    "recipe": "teach",
                    "label": "chambers",
                    "train": {"steps": sizes.teacher_steps, "batch_size": 2, "learning_rate": 5e-3},
                },
                {
                    "name": "warm",
                    "recipe": "pretrain_context",
                    "teachers": ["teacher"],
                    "options": {"tiles": [2, 2, 2], "tile": tile, "width": 64},
                    "train": {"steps": warm_steps, "batch_size": 1, "learning_rate": 1e-3},
                },
                {**bags, "name": "on-student", "backbone": "warm", "options": frozen},
                {**bags, "name": "on-teacher", "backbone": "teacher", "options": frozen},
                {**bags, "name": "scratch", "options": options},
            ],
        }
    )


def phantoms(folder: Path, patients: Sequence[int], sizes: Sizes, *, drawn: bool) -> CaseStore:
    """Working copies of patients, scanners in turn, every second patient without calcium.

    Args:
        folder: For the store.
        patients: Seeds, each a patient of its own.
        sizes: Of the scans.
        drawn: With the chambers drawn, for the teacher; else with the class of the scan alone.
    """
    store = CaseStore(folder)
    for number, seed in enumerate(patients):
        style = SCANNERS[SCANNER_OF[number // 2 % len(SCANNER_OF)]]
        patient = draw_patient(seed)
        if number % 2:
            patient = replace(patient, calcium=())
        grid = place_grid(style, seed, size=sizes.side, spacing_mm=sizes.spacing_mm, offset_mm=10.0)
        case = paint(patient, style, grid, seed)
        d, h, w = case.hu.shape
        # The scanner's directions are left out: no arm asks where in the body a voxel lies.
        placed = Grid((d, h, w), case.spacing_mm, (0.0, 0.0, 0.0))
        index = np.argwhere(case.heart)
        info = CaseInfo(
            id=f"p{seed:08d}",
            shape=placed.shape,
            spacing_mm=placed.spacing_mm,
            origin_mm=placed.origin_mm,
            masks=("chambers",) if drawn else (),
            bags={} if drawn else {LABEL: CLASSES[1 - number % 2]},
            roi_mm=(placed.point_at(index.min(0)), placed.point_at(index.max(0))),
        )
        store.write_case(info, case.hu, {"chambers": case.chambers} if drawn else {})
    return store


def windows_of(store: CaseStore, sizes: Sizes) -> int:
    """How many windows an epoch of ``store`` has, in a study of ``sizes``."""
    study = study_of(sizes, warm_steps=1)
    context = RecipeContext(study, study.stage_named("warm"), 1, store)
    return len(PretrainContext().batches(context, store.ids()))


def fresh(study: Study, name: str, seed: int) -> Weights:
    """What a stage begins with."""
    stage = study.stage_named(name)
    return export(initial(lambda: module_of(study, stage), seed))


def trained(
    study: Study, name: str, store: CaseStore, seed: int, inputs: dict[str, Weights]
) -> Weights:
    """A stage's weights after its one round."""
    context = _context(study, name, store, seed, inputs)
    weights = RECIPES[context.stage.recipe].run(context).weights
    if weights is None:
        raise ValueError(f"stage {name} trains nothing")
    return weights


def area(
    study: Study,
    name: str,
    stores: tuple[CaseStore, CaseStore],
    seed: int,
    inputs: dict[str, Weights],
) -> float:
    """AUC of a bag classifier trained on the first store and scored on the second."""
    weights = trained(study, name, stores[0], seed, inputs)
    context = replace(
        _context(study, name, stores[1], seed, inputs), weights=weights, role="held_out"
    )
    return RECIPES["bags"].evaluate(context).metrics[f"eval.{LABEL}.{CLASSES[1]}.auc"]


def arms(seed: int, sizes: Sizes, folder: Path) -> dict[str, float]:
    """AUC of every arm for one seed.

    Returns:
        ``adapted`` and ``unadapted`` (C1), ``teacher`` (C2), ``scratch``; and ``windows``.
    """
    counts = (sizes.taught, sizes.warmed, sizes.trained, sizes.tested)
    first = 1_000_000 * (seed + 1)
    stores = []
    for part, count in enumerate(counts):
        patients = range(first, first + count)
        stores.append(phantoms(folder / str(part), patients, sizes, drawn=part == 0))
        first += count
    taught, warmed, *split = stores
    windows = windows_of(warmed, sizes)
    study = study_of(sizes, warm_steps=windows)
    teacher = trained(study, "teacher", taught, seed, {})
    before = fresh(study, "warm", seed)
    after = trained(study, "warm", warmed, seed, {"teacher": teacher})
    both = (split[0], split[1])
    return {
        "adapted": area(study, "on-student", both, seed, {"warm": after}),
        "unadapted": area(study, "on-student", both, seed, {"warm": before}),
        "teacher": area(study, "on-teacher", both, seed, {"teacher": teacher}),
        "scratch": area(study, "scratch", both, seed, {}),
        "windows": float(windows),
    }


def _context(
    study: Study, name: str, store: CaseStore, seed: int, inputs: dict[str, Weights]
) -> RecipeContext:
    stage = study.stage_named(name)
    given = {one: (inputs[one], "0" * 64) for one in stage.inputs}
    weights = fresh(study, name, seed)
    return RecipeContext(study, stage, 1, store, weights=weights, teachers=given, seed=seed)


def main() -> int:
    """A line of JSON for every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    for seed in options.seed or [0]:
        with tempfile.TemporaryDirectory() as folder:
            row = {"seed": seed, **arms(seed, sizes, Path(folder))}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
