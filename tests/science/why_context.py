"""Why the adapted student stays behind its teacher as an extractor for bags (C2): one thing at a time.

The arms of ``arms_context`` with more test patients, longer warm-ups and a wider student; an untrained
teacher tells what of the teacher's score its training gave it, and a head drawn anew how much an AUC
moves for no reason.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import arms_context as context  # beside this file, which is no package

from stillroom.client.intake.store import CaseStore
from stillroom.common.study import Study

TESTED = 96
"""Patients; the reported arms have half as many, and these are the first of them."""
TEACHER = "teacher"
REPORTED = "student, 1 epoch"
LONGER = 8
WIDER = 24


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
        counts = [self.sizes.taught, self.sizes.warmed, self.sizes.trained, self.sizes.tested]
        first = 1_000_000 * (self.seed + 1)
        stores: list[CaseStore] = []
        for part, count in enumerate(counts):
            patients = range(first, first + count)
            where = self.folder / str(part)
            stores.append(context.phantoms(where, patients, self.sizes, drawn=part == 0))
            first += count
        taught, self.warmed, train, test = stores
        self.bags = (train, test)
        self.windows = context.windows_of(self.warmed, self.sizes)
        study = self.study(1)
        self.teacher = context.trained(study, "teacher", taught, self.seed, {})

    def study(self, epochs: int, width: int | None = None) -> Study:
        """The reported study with a longer warm-up, or a wider student."""
        study = context.study_of(self.sizes, warm_steps=epochs * self.windows)
        value = study.model_dump(mode="json", exclude_defaults=True)
        if width is not None:
            value["model"]["student"]["feature_size"] = width
        return Study.parse(value)

    def of_student(self, epochs: int, width: int | None = None, *, head: int = 0) -> float:
        """AUC on a student after so many epochs; ``head`` draws the classifier and its order anew."""
        study = self.study(max(epochs, 1), width)
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
        found = {
            TEACHER: arms.of_teacher(trained=True),
            "teacher, untrained": arms.of_teacher(trained=False),
            "student, untrained": arms.of_student(0),
            REPORTED: arms.of_student(1),
            "student, head drawn anew": arms.of_student(1, head=100),
            f"student, {LONGER} epochs": arms.of_student(longer),
            "wider student, 1 epoch": arms.of_student(1, WIDER),
        }
    return {
        name: {"AUC": area, "ratio": area / max(found[TEACHER], 1e-6)}
        for name, area in found.items()
    }
