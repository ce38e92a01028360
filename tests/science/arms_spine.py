"""Arms of the gates F1 to F5: FedKD's student, its teachers and their rivals (arXiv 2407.07557).

Three hospitals with few labels each, and a fourth of another scanner that nobody trained on and whose
scanner is drawn here, so that nothing was ever tuned on it. Every arm goes through the product's own
recipes and its own average per parameter group: a head is averaged over the sites that trained it, in
the baseline with true labels alone as well. All students take the same number of steps with the same
optimiser, rate and batch; the CNN that learns from the same pseudo-labels is there because in an earlier
experiment of ours the gain came from these and not from the transformer. A missed point counts as
``MISSED_MM``, never as nothing. Calcification is below this grid's voxels and is not measured.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from numpy.typing import NDArray
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.recipes.context import Recipe, RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.recipes.teach import Teach
from stillroom.client.training.cases import usable_labels
from stillroom.common.errors import DataError
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study
from stillroom.server.rounds.averaging import GroupAverage

sys.path.insert(0, str(Path(__file__).parent))

from spine_hospitals import (  # beside this file, which is no package
    QUICK,
    SIDE,
    SPACING_MM,
    UNSEEN,
    Plan,
    Stores,
    hospitals,
    pooled,
    study_of,
)

__all__ = ["QUICK", "Plan", "figures", "ratios", "run"]

Weights = dict[str, NDArray[Any]]

MISSED_MM = SPACING_MM * SIDE / 2
"""What a point not found counts as, and the most that any counts: half the field of view."""


class TeachWithPseudo(Teach):
    """A CNN that learns one label from true and pseudo-labels: the rival of the transformer."""

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with a true or a complete pseudo-label of the stage's type."""
        label = context.stage.label or ""
        known = {label: context.study.label[label]}
        return [i.id for i in candidates if usable_labels(context.store, i, known)]


class Arms:
    """One seed's arms over one set of patients.

    Args:
        seed: Of patients, weights, order and augmentation.
        plan: Sizes.
        folder: For the sites' working copies.
    """

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.seed, self.plan, self.folder = seed, plan, folder
        self.study = study_of(plan, seed)
        self.stores, self.tests = hospitals(folder, seed, plan)
        self.scores: dict[str, dict[str, Any]] = {}
        self.models: dict[str, Weights] = {}

    def run(self) -> None:
        """Every arm, in an order in which no true-label arm can see a pseudo-label."""
        for stage in ("teach-chambers", "teach-landmarks"):
            self.learn(stage, stage, self.stores)
        for site, store in self.stores.items():
            self.learn(f"local {site}", "teach-landmarks", {site: store})
        self.learn("student, true labels", "student", self.stores)
        self.pseudo_label()
        self.learn("student", "student", self.stores)
        cnn = TeachWithPseudo()
        self.learn("CNN, pseudo-labels", "teach-landmarks", self.stores, recipe=cnn)
        pool = {"pool": pooled(self.stores, self.folder / "pool")}
        # As many scans per step as all sites together have: the same steps, the same patches.
        wide = study_of(self.plan, self.seed, batch=len(self.stores))
        self.learn("student, pooled", "student", pool, study=wide)
        for backbone in ("student", "teach-chambers", "teach-landmarks"):
            self.learn(f"vessels on {backbone}", f"on-{backbone}", self.stores)

    def learn(
        self,
        arm: str,
        name: str,
        stores: Stores,
        *,
        study: Study | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """Train stage ``name`` over ``stores`` as arm ``arm``, and score it everywhere."""
        study = study or self.study
        stage = study.stage_named(name)
        recipe = recipe or RECIPES[stage.recipe]
        module = initial(lambda: module_of(study, stage), self.seed)
        manifest, weights = manifest_of(module), export(module)
        for number in range(1, stage.rounds + 1):
            total = GroupAverage(manifest)
            for store in stores.values():
                context = self.context(study, name, store, weights, number)
                try:
                    result = recipe.run(context)
                except DataError:
                    continue  # STR-401: this site has nothing for the stage, as in a real round.
                total.add(result.weights or {}, result.samples)
            weights = total.finish(weights)
        self.models[arm] = weights
        sites = {
            site: self.score(study, name, store, weights) for site, store in self.tests.items()
        }
        unseen = sites.pop(UNSEEN)
        nbytes = sum(value.nbytes for value in weights.values())
        sent = nbytes if len(stores) > 1 else 0
        self.scores[arm] = {"unseen": unseen, "sites": sites, "bytes": sent}

    def pseudo_label(self) -> None:
        """Every site labels its unlabelled scans with both teachers."""
        for store in self.stores.values():
            context = self.context(self.study, "label", store, None, 1)
            RECIPES["pseudolabel"].run(context)

    def score(
        self, study: Study, name: str, store: CaseStore, weights: Weights
    ) -> dict[str, float | None]:
        """What ``figures`` makes of the stage's predictions on ``store``."""
        context = self.context(study, name, store, weights, study.stage_named(name).rounds)
        context = replace(context, role="held_out")
        with tempfile.TemporaryDirectory() as kept:
            RECIPES[context.stage.recipe].evaluate(context, Path(kept))
            return figures([json.loads(p.read_text()) for p in sorted(Path(kept).glob("*.json"))])

    def context(
        self, study: Study, name: str, store: CaseStore, weights: Weights | None, number: int
    ) -> RecipeContext:
        """One call of a recipe; weights are copies, for a recipe may write into them."""
        stage = study.stage_named(name)
        given = {one: (self.models[one], "0" * 64) for one in stage.inputs}
        own = None if weights is None else {n: value.copy() for n, value in weights.items()}
        return RecipeContext(
            study,
            stage,
            number,
            store,
            weights=own,
            teachers=given,
            device="cpu",
            seed=self.seed,
        )


def run(seed: int, plan: Plan) -> dict[str, Any]:
    """Every arm on one seed.

    Returns:
        Arm -> ``unseen`` and, by site, ``sites``: ``error_mm``, ``detected`` and ``dice`` (None where the arm
        predicts no such label); ``bytes`` a site sends in one round, 0 where nothing is sent.
    """
    with tempfile.TemporaryDirectory() as folder:
        arms = Arms(seed, plan, Path(folder))
        arms.run()
        return arms.scores


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """What the gates compare, of one seed, at the held-out hospital. Errors: below 1 is better."""

    def of(arm: str, what: str) -> float:
        return float(results[arm]["unseen"][what])

    local = fmean(of(arm, "error_mm") for arm in results if arm.startswith("local "))
    cnn = max(of(f"vessels on teach-{label}", "dice") for label in ("chambers", "landmarks"))
    student, teacher = of("student", "error_mm"), of("teach-landmarks", "error_mm")
    return {
        "F1": student / of("student, true labels", "error_mm"),
        "F2": student / teacher,
        "F3": teacher / local,
        "F4": of("student", "dice") / max(of("student, pooled", "dice"), 1e-6),
        "F5": of("vessels on student", "dice") / max(cnn, 1e-6),
        "F over CNN": student / of("CNN, pseudo-labels", "error_mm"),
    }


def figures(cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Median error of points, share of points detected, and mean Dice of classes.

    Args:
        cases: Of each case, label -> class -> its ``ClassResult`` as a dictionary.
    """
    everything = [one for case in cases for named in case.values() for one in named.values()]
    points = [one for one in everything if one["dice"] is None]
    overlaps = [one["dice"] for one in everything if one["dice"] is not None]
    errors = [
        MISSED_MM if one["error_mm"] is None else min(one["error_mm"], MISSED_MM) for one in points
    ]
    return {
        "error_mm": median(errors) if errors else None,
        "detected": fmean(one["detected"] for one in points) if points else None,
        "dice": fmean(overlaps) if overlaps else None,
    }
