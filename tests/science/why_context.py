"""Why the claims about bags (C1, C2) are not decided: every arm of calcium is near chance.

Is calcium to be seen on that grid at all? The brightest voxel of the heart's box answers that without
learning. And what do the extractors do with a question whose answer lies in many voxels: is this left
ventricle dilated? Same phantoms, sizes, stages and steps as ``arms_context``, with more test patients.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import arms_context as context  # beside this file, which is no package
from verdicts import chance

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.training.targets import Grid
from stillroom.common.study import Study
from stillroom.deploy.phantom.anatomy import Patient, draw_patient
from stillroom.deploy.phantom.painting import paint, place_grid
from stillroom.deploy.phantom.scanner import SCANNERS

TESTED = 96
LONGER = 8
DILATED = 1.3
"""A dilated ventricle's radius beside the one that was drawn; drawn ones vary by a tenth."""

Draw = Callable[[Patient, int], Patient]


def calcified(patient: Patient, number: int) -> Patient:
    """As in the reported arms: every second patient has no calcium."""
    return replace(patient, calcium=()) if number % 2 else patient


def dilated(patient: Patient, number: int) -> Patient:
    """Every second patient's left ventricle is as drawn; nobody has calcium."""
    radius, length = patient.lv
    wide = radius if number % 2 else radius * DILATED
    return replace(patient, calcium=(), lv=(wide, length))


def scans(folder: Path, patients: Sequence[int], sizes: context.Sizes, draw: Draw) -> CaseStore:
    """``arms_context.phantoms`` with the class of the scan decided by ``draw``."""
    store = CaseStore(folder)
    for number, seed in enumerate(patients):
        style = SCANNERS[context.SCANNER_OF[number // 2 % len(context.SCANNER_OF)]]
        grid = place_grid(style, seed, size=sizes.side, spacing_mm=sizes.spacing_mm, offset_mm=10.0)
        case = paint(draw(draw_patient(seed), number), style, grid, seed)
        d, h, w = case.hu.shape
        placed = Grid((d, h, w), case.spacing_mm, (0.0, 0.0, 0.0))
        index = np.argwhere(case.heart)
        info = CaseInfo(
            id=f"p{seed:08d}",
            shape=placed.shape,
            spacing_mm=placed.spacing_mm,
            origin_mm=placed.origin_mm,
            masks=(),
            points={},
            bags={context.LABEL: context.CLASSES[1 - number % 2]},
            roi_mm=(placed.point_at(index.min(0)), placed.point_at(index.max(0))),
        )
        store.write_case(info, case.hu, {})
    return store


def brightest(store: CaseStore) -> float:
    """Area under the curve of the brightest voxel in the heart's box."""
    found: dict[str, list[float]] = {one: [] for one in context.CLASSES}
    for case in store.ids():
        info = store.info(case)
        if info.roi_mm is None:
            continue
        corners = np.asarray(info.roi_mm)[:, ::-1] / np.asarray(info.spacing_mm)[::-1]
        low, high = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int) + 1
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        found[info.bags[context.LABEL]].append(float(store.image(case)[inside].max()))
    none, some = (np.asarray(found[one]) for one in context.CLASSES)
    return float(np.mean((some[:, None] > none) + 0.5 * (some[:, None] == none)))


@dataclass
class Extractors:
    """One seed's patients, and what each extractor makes of them.

    Args:
        sizes: As reported, but for the test patients.
        seed: Of everything.
        folder: For working copies.
    """

    sizes: context.Sizes
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        sizes, first = self.sizes, 1_000_000 * (self.seed + 1)

        def patients(count: int) -> range:
            nonlocal first
            first += count
            return range(first - count, first)

        taught = patients(sizes.taught)
        # Patients and teacher are those of the reported arms.
        drawn = context.phantoms(self.folder / "taught", taught, sizes, drawn=True)
        self.warmed = scans(self.folder / "warmed", patients(sizes.warmed), sizes, dilated)
        train = scans(self.folder / "train", patients(sizes.trained), sizes, dilated)
        asked = patients(sizes.tested)
        self.bags = (train, scans(self.folder / "test", asked, sizes, dilated))
        self.calcium = scans(self.folder / "calcium", asked, sizes, calcified)
        self.windows = context.windows_of(self.warmed, sizes)
        self.teacher = context.trained(self.study(1), "teacher", drawn, self.seed, {})

    def study(self, epochs: int) -> Study:
        """The reported study, its warm-up as long as so many epochs."""
        return context.study_of(self.sizes, warm_steps=epochs * self.windows)

    def of_student(self, epochs: int, *, head: int = 0) -> float:
        """AUC on a student after so many epochs; ``head`` draws the classifier and its order anew."""
        study = self.study(max(epochs, 1))
        if epochs:
            given = {"teacher": self.teacher}
            weights = context.trained(study, "warm", self.warmed, self.seed, given)
        else:
            weights = context.fresh(study, "warm", self.seed)
        return context.area(study, "on-student", self.bags, self.seed + head, {"warm": weights})

    def of_teacher(self, *, trained: bool) -> float:
        """AUC on the teacher, or on one with the weights that it began with."""
        study = self.study(1)
        weights = self.teacher if trained else context.fresh(study, "teacher", self.seed)
        return context.area(study, "on-teacher", self.bags, self.seed, {"teacher": weights})


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Extractor -> AUC and its ratio to the teacher's, on one seed."""
    small = replace(context.QUICK, warmed=2, trained=6, tested=6, teacher_steps=6, bag_steps=4)
    sizes = small if quick else replace(context.FULL, tested=TESTED)
    longer = 2 if quick else LONGER
    with tempfile.TemporaryDirectory() as folder:
        arms = Extractors(sizes, seed, Path(folder))
        scratch = context.area(arms.study(1), "scratch", arms.bags, seed, {})
        found = {
            "chance, in one of twenty draws": chance(sizes.tested),
            "calcium: the brightest voxel": brightest(arms.calcium),
            "dilated: teacher": arms.of_teacher(trained=True),
            "dilated: teacher, untrained": arms.of_teacher(trained=False),
            "dilated: student, untrained": arms.of_student(0),
            "dilated: student, 1 epoch": arms.of_student(1),
            "dilated: student, 1 epoch, head drawn anew": arms.of_student(1, head=100),
            f"dilated: student, {LONGER} epochs": arms.of_student(longer),
            "dilated: encoder that learns with the head": scratch,
        }
    teacher = found["dilated: teacher"]
    return {
        name: {"AUC": area, "over the teacher": area / max(teacher, 1e-6)}
        for name, area in found.items()
    }
