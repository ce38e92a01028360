"""Patients, hospitals and study of the gates F1 to F5 (``arms_spine``)."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.training.targets import Grid
from stillroom.common.study import Study
from stillroom.deploy.phantom.anatomy import POINTS, draw_patient
from stillroom.deploy.phantom.painting import CHAMBERS, VESSELS, paint, place_grid
from stillroom.deploy.phantom.scanner import SCANNERS, Scanner

Stores = Mapping[str, CaseStore]

LABELS = {"chambers": CHAMBERS, "vessels": VESSELS, "landmarks": POINTS}
OWNED = {
    "north": {"chambers": 1.0, "landmarks": 1.0},
    "river": {"landmarks": 0.5, "vessels": 0.5},
    "harbour": {"landmarks": 0.5, "vessels": 0.5},
}
"""Site -> label -> the share of its labelled patients that has it. Vessels are F5's new structure."""
UNSEEN = "unseen"
REPORTED = Scanner(
    "Fjord Tomography", "F-2", 1.9, 1.25, 30, 2.0, 0.98, 18, (350.0, 55.0), (0.2, 1.1), 3.0
)
"""The held-out hospital. The recipe's settings are the demo's, found on the four other scanners."""
SPACING_MM, SIDE = 4.5, 32


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes that all arms share; fixed before any seed is run.

    Attributes:
        labelled, unlabelled: Patients per training site.
        tested, unseen: Patients per training site, and of the held-out one, that nobody learned from.
        teacher_rounds, teacher_steps: Of every CNN on one label; steps are per site and round.
        student_rounds, student_steps: Of every student.
        adapt_rounds, adapt_steps: Of F5's last layer.
        channels, feature_size: Of the CNNs and the student.
    """

    labelled: int = 8
    unlabelled: int = 12
    tested: int = 4
    unseen: int = 12
    teacher_rounds: int = 6
    teacher_steps: int = 50
    student_rounds: int = 10
    student_steps: int = 30
    adapt_rounds: int = 3
    adapt_steps: int = 20
    channels: tuple[int, ...] = (8, 16, 32, 48)
    feature_size: int = 24


QUICK = Plan(2, 1, 1, 2, 1, 3, 1, 2, 1, 1, (4, 8, 8), 12)


def hospitals(folder: Path, seed: int, plan: Plan) -> tuple[dict[str, CaseStore], Stores]:
    """Training sites, and the test patients of each and of the held-out one; no patient twice."""
    training, tests = {}, {}
    for number, (site, owned) in enumerate(OWNED.items()):
        first = 1_000_000 * (seed + 1) + 10_000 * number
        labels = [
            tuple(label for label, share in owned.items() if k < share * plan.labelled)
            for k in range(plan.labelled)
        ]
        labels += [()] * plan.unlabelled
        training[site] = fill(folder / site, SCANNERS[site], first, labels)
        shown = [tuple(LABELS)] * plan.tested
        tests[site] = fill(folder / f"{site}-test", SCANNERS[site], first + 5_000, shown)
    first = 1_000_000 * (seed + 1) + 90_000
    tests[UNSEEN] = fill(folder / UNSEEN, REPORTED, first, [tuple(LABELS)] * plan.unseen)
    return training, tests


def fill(
    folder: Path, scanner: Scanner, first: int, labels: Sequence[tuple[str, ...]]
) -> CaseStore:
    """A patient for each of ``labels``, with these labels."""
    store = CaseStore(folder)
    for patient, owned in enumerate(labels, first):
        grid = place_grid(scanner, patient, size=SIDE, spacing_mm=SPACING_MM, offset_mm=10.0)
        case = paint(draw_patient(patient), scanner, grid, patient)
        d, h, w = case.hu.shape
        placed = Grid((d, h, w), case.spacing_mm, case.origin_mm)
        # Stores are axis-aligned: points of an oblique scan are turned about its first voxel.
        origin = np.asarray(case.origin_mm)
        points = {
            name: tuple(float(v) for v in origin + case.direction.T @ (np.asarray(mm) - origin))
            for name, mm in case.points.items()
        }
        drawn = {"chambers": case.chambers, "vessels": case.vessels}
        info = CaseInfo(
            id=f"p{patient:010d}",
            shape=placed.shape,
            spacing_mm=placed.spacing_mm,
            origin_mm=placed.origin_mm,
            masks=tuple(label for label in drawn if label in owned),
            points={"landmarks": points} if "landmarks" in owned else {},  # type: ignore[dict-item]
        )
        store.write_case(info, case.hu, {n: mask for n, mask in drawn.items() if n in owned})
    return store


def pooled(stores: Stores, folder: Path) -> CaseStore:
    """All cases in one store, with the very pseudo-labels that the sites learned from."""
    store = CaseStore(folder)
    for one in stores.values():
        shutil.copytree(one.root, store.root, dirs_exist_ok=True)
    return store


def study_of(plan: Plan, seed: int, *, batch: int = 1) -> Study:
    """The demo's study with landmarks at every site, and vessels as a label that comes later."""
    taught = {"learning_rate": 6e-3, "steps": plan.teacher_steps, "batch_size": 1}
    added = {"learning_rate": 6e-3, "steps": plan.adapt_steps, "batch_size": 1}
    student = {"learning_rate": 3e-3, "steps": plan.student_steps, "batch_size": batch}
    teachers = [f"teach-{label}" for label in ("chambers", "landmarks")]
    stages: list[dict[str, Any]] = [
        {
            "name": name,
            "recipe": "teach",
            "label": name.removeprefix("teach-"),
            "rounds": plan.teacher_rounds,
            "train": taught,
        }
        for name in teachers
    ]
    stages += [
        {"name": "label", "recipe": "pseudolabel", "teachers": teachers},
        {"name": "student", "recipe": "distil", "rounds": plan.student_rounds, "train": student},
    ]
    stages += [
        {
            "name": f"on-{name}",
            "recipe": "adapt",
            "label": "vessels",
            "backbone": name,
            "rounds": plan.adapt_rounds,
            "train": added,
        }
        for name in ("student", *teachers)
    ]
    return Study.parse(
        {
            "study": {"name": "spine-arms", "seed": seed, "validation_fraction": 0.0},
            "volume": {
                "spacing_mm": [SPACING_MM] * 3,
                "patch": [SIDE] * 3,
                "hu_window": [-300, 700],
            },
            "label": {
                "chambers": {"kind": "mask", "classes": list(CHAMBERS)},
                "vessels": {"kind": "mask", "classes": list(VESSELS)},
                "landmarks": {
                    "kind": "points",
                    "names": list(POINTS),
                    "radius_mm": 8.0,
                    "tolerance_mm": 10.0,
                },
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": list(plan.channels)},
                "student": {"arch": "light-swin", "feature_size": plan.feature_size},
            },
            "stage": stages,
        }
    )
