"""F4 for every kind of label: taught at three hospitals, and on their scans in one place.

F4 itself is about the student's Dice. Here masks, points and classes of whole scans are each taught at
the hospitals that own them and on all of these scans together, with as many scans per step as the
hospitals have among them: the same steps, the same patches. Scores are of a hospital nobody trained on;
those of scan classes of other patients on four scanners, one of which nobody trained on.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

sys.path.insert(0, str(Path(__file__).parent))

import arms_context as context  # beside this file, which is no package
import arms_spine as spine
from spine_hospitals import REPORTED, UNSEEN, Plan, fill, pooled, study_of

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.registry import RECIPES
from stillroom.common.study import Study
from stillroom.deploy.phantom.painting import VESSELS
from stillroom.deploy.phantom.scanner import SCANNERS

OWNERS = {
    "chambers": ("north", "river"),
    "vessels": ("river", "harbour"),
    "landmarks": ("north", "river", "harbour"),
}
SITES = ("north", "river", "harbour")
KINDS = {"chambers": "dice", "vessels": "dice", "landmarks": "error_mm", "classes": "auc"}
NAMES = {"dice": "Dice", "error_mm": "error in mm", "auc": "AUC"}
PLAN = Plan(labelled=8, unlabelled=0, unseen=10, teacher_rounds=6, teacher_steps=30)
QUICK = replace(PLAN, labelled=2, unseen=2, teacher_rounds=1, teacher_steps=2, channels=(4, 8, 8))


class Masks(spine.Arms):
    """Arms that teach one label each, over stores in which two or three hospitals own it."""

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.seed, self.plan, self.folder = seed, plan, folder
        self.study = self.with_vessels(batch=1)
        self.scores, self.models = {}, {}
        stores = {}
        for number, site in enumerate(SITES):
            own = tuple(label for label, owners in OWNERS.items() if site in owners)
            first = 1_000_000 * (seed + 1) + 10_000 * number + 500_000
            stores[site] = fill(folder / site, SCANNERS[site], first, [own] * plan.labelled)
        first = 1_000_000 * (seed + 1) + 590_000
        shown = [tuple(OWNERS)] * plan.unseen
        self.stores = stores
        self.tests = {UNSEEN: fill(folder / UNSEEN, REPORTED, first, shown)}

    def with_vessels(self, *, batch: int) -> Study:
        """The spine's study with a teacher of vessels, and so many scans per step."""
        value = study_of(self.plan, self.seed).model_dump(mode="json", exclude_defaults=True)
        value["label"]["vessels"] = {"kind": "mask", "classes": list(VESSELS)}
        first = value["stage"][0]
        new = {**first, "name": "teach-vessels", "label": "vessels"}
        value["stage"] = [new, *value["stage"]]
        for stage in value["stage"]:
            if stage["recipe"] == "teach":
                stage["train"] = {**stage["train"], "batch_size": batch}
        return Study.parse(value)

    @override
    def run(self) -> None:
        """Each label, at its owners and in one place."""
        pool = {"pool": pooled(self.stores, self.folder / "pool")}
        for label, owners in OWNERS.items():
            name = f"teach-{label}"
            self.learn(f"{label}, federated", name, self.stores)
            wide = self.with_vessels(batch=len(owners))
            self.learn(f"{label}, pooled", name, pool, study=wide)


@dataclass(frozen=True, slots=True)
class Half:
    """How the classes of scans are learned: rounds, and steps in each."""

    rounds: int = 3
    steps: int = 50


class Classes(spine.Arms):
    """The same for the class of a whole scan; hospitals are its scanners."""

    def __init__(self, seed: int, sizes: context.Sizes, half: Half, folder: Path) -> None:
        self.seed, self.folder, self.sizes, self.half = seed, folder, sizes, half
        self.study = self.of_rounds(batch=4)
        self.scores, self.models = {}, {}
        first = 1_000_000 * (seed + 1) + 600_000
        patients = range(first, first + sizes.trained)
        everyone = context.phantoms(folder / "all", patients, sizes, drawn=False)
        self.stores = {site: CaseStore(folder / site) for site in SITES}
        for number, case in enumerate(everyone.ids()):
            site = context.SCANNER_OF[number // 2 % len(context.SCANNER_OF)]
            if site in self.stores:
                shutil.copytree(everyone.root / case, self.stores[site].root / case)
        others = range(first + 5_000, first + 5_000 + sizes.tested)
        self.tests = {UNSEEN: context.phantoms(folder / "test", others, sizes, drawn=False)}

    def of_rounds(self, *, batch: int) -> Study:
        """The classifier's study in rounds."""
        study = context.study_of(self.sizes, warm_steps=1)
        value = study.model_dump(mode="json", exclude_defaults=True)
        stage = next(one for one in value["stage"] if one["name"] == "scratch")
        stage["rounds"] = self.half.rounds
        stage["train"] = {**stage["train"], "steps": self.half.steps, "batch_size": batch}
        return Study.parse(value)

    @override
    def run(self) -> None:
        """At the hospitals, and in one place."""
        self.learn("classes, federated", "scratch", self.stores)
        pool = {"pool": pooled(self.stores, self.folder / "pool")}
        wide = self.of_rounds(batch=4 * len(SITES))
        self.learn("classes, pooled", "scratch", pool, study=wide)

    @override
    def score(self, study: Study, name: str, store: CaseStore, weights: Any) -> dict[str, Any]:
        """The area under the curve."""
        asked = self.context(study, name, store, weights, self.half.rounds)
        metrics = RECIPES["bags"].evaluate(replace(asked, role="held_out")).metrics
        return {"auc": metrics[f"eval.{context.LABEL}.{context.CLASSES[1]}.auc"]}


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Kind of label -> federated and pooled scores on one seed, and the better over the other.

    A ratio below 1 is a loss to the federation, also for points, whose errors are turned over.
    """
    with tempfile.TemporaryDirectory() as folder:
        masks = Masks(seed, QUICK if quick else PLAN, Path(folder))
        masks.run()
    small = replace(context.QUICK, trained=8, tested=8)
    sizes = small if quick else replace(context.FULL, trained=64, tested=64)
    with tempfile.TemporaryDirectory() as folder:
        classes = Classes(seed, sizes, Half(1, 2) if quick else Half(), Path(folder))
        classes.run()
    scores = {**masks.scores, **classes.scores}
    rows = {}
    for kind, what in KINDS.items():
        ours, theirs = (
            float(scores[f"{kind}, {how}"]["unseen"][what]) for how in ("federated", "pooled")
        )
        over = (theirs, ours) if what == "error_mm" else (ours, theirs)
        rows[f"{kind}: {NAMES[what]}"] = {
            "federated": ours,
            "pooled": theirs,
            "ratio": over[0] / max(over[1], 1e-6),
        }
    return rows
