"""F1 with few labels: a quarter of the labelled patients, the others left unlabelled.

As many scans, steps and rounds as in ``arms_spine``, its hospitals, and its unseen one.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

sys.path.insert(0, str(Path(__file__).parent))

import arms_spine as spine  # beside this file, which is no package
from spine_hospitals import QUICK, Plan

FEW = 2
"""Labelled patients per hospital; the reported arms have eight."""


class Students(spine.Arms):
    """The two students that F1 compares, and the teachers of one."""

    @override
    def run(self) -> None:
        """The student of true labels is done before there is any pseudo-label."""
        for stage in ("teach-chambers", "teach-landmarks"):
            self.learn(stage, stage, self.stores)
        self.learn("true labels", "student", self.stores)
        self.pseudo_label()
        self.learn("all labels", "student", self.stores)


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Setting -> what both students do at the unseen hospital, on one seed."""
    plan, few = (QUICK, 1) if quick else (Plan(), FEW)
    scans = plan.labelled + plan.unlabelled
    fewer = replace(plan, labelled=few, unlabelled=scans - few)
    with tempfile.TemporaryDirectory() as folder:
        arms = Students(seed, fewer, Path(folder))
        arms.run()
    alone, both = (arms.scores[arm]["unseen"] for arm in ("true labels", "all labels"))
    row = {
        "true labels: error in mm": float(alone["error_mm"]),
        "all labels: error in mm": float(both["error_mm"]),
        "F1": both["error_mm"] / alone["error_mm"],
        "true labels: Dice": float(alone["dice"]),
        "all labels: Dice": float(both["dice"]),
    }
    return {f"{FEW} labelled patients per hospital": row}
