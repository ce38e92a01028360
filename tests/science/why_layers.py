"""F5 with a last layer that learns quicker or longer, on the very networks that are reported."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

sys.path.insert(0, str(Path(__file__).parent))

import arms_spine as spine  # beside this file, which is no package
from spine_hospitals import QUICK, Plan

from stillroom.common.study import Study

TEACHERS = ("teach-chambers", "teach-landmarks")
FASTER, LONGER = 10, 4
SETTINGS: Mapping[str, tuple[int, int]] = {
    "as reported": (1, 1),
    f"{FASTER} times the rate": (FASTER, 1),
    f"{LONGER} times the steps": (1, LONGER),
    f"{FASTER} times the rate, {LONGER} times the steps": (FASTER, LONGER),
}
"""Setting -> factors of the last layer's rate and steps."""


class Layers(spine.Arms):
    """Last layers on the networks that F5 compares."""

    @override
    def run(self) -> None:
        """Networks as reported, and each setting on each of them."""
        for stage in TEACHERS:
            self.learn(stage, stage, self.stores)
        self.pseudo_label()
        self.learn("student", "student", self.stores)
        for setting, factors in SETTINGS.items():
            study = self.changed(*factors)
            for backbone in ("student", *TEACHERS):
                self.learn(f"{setting} on {backbone}", f"on-{backbone}", self.stores, study=study)

    def changed(self, faster: int, longer: int) -> Study:
        """The study with another rate and other steps for the last layer alone."""
        value = self.study.model_dump(mode="json", exclude_defaults=True)
        for stage in value["stage"]:
            if stage["recipe"] == "adapt":
                stage["train"]["learning_rate"] *= faster
                stage["train"]["steps"] *= longer
        return Study.parse(value)


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Setting -> Dice of vessels at the unseen hospital, on one seed."""
    with tempfile.TemporaryDirectory() as folder:
        arms = Layers(seed, QUICK if quick else Plan(), Path(folder))
        arms.run()

    def dice(setting: str, backbone: str) -> float:
        return float(arms.scores[f"{setting} on {backbone}"]["unseen"]["dice"])

    rows = {}
    for setting in SETTINGS:
        student, cnn = dice(setting, "student"), max(dice(setting, one) for one in TEACHERS)
        rows[setting] = {
            "on the student": student,
            "on a CNN": cnn,
            "student over CNN": student / max(cnn, 1e-6),
        }
    return rows
