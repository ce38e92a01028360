"""A site with a toy one can learn in seconds: bright balls on a dark ground."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial
from stillroom.common.study import Study

SIDE = 20
SPACING = (2.0, 2.0, 2.0)
ORIGIN = (-10.0, 5.0, 100.0)


@pytest.fixture
def study_dict() -> dict[str, Any]:
    """One mask (the ball), one point (its centre), tiny networks."""
    train = {"learning_rate": 1e-2, "steps": 12, "batch_size": 2}
    return {
        "study": {"name": "toy", "validation_fraction": 0.25},
        "volume": {
            "spacing_mm": SPACING,
            "patch": [16, 16, 16],
            "hu_window": [-200, 400],
        },
        "label": {
            "ball": {"kind": "mask", "classes": ["ball"]},
            "centre": {"kind": "points", "names": ["middle"], "radius_mm": 5.0},
        },
        "model": {
            "teacher": {"arch": "dynunet", "channels": [6, 12, 12]},
            "student": {"arch": "light-swin", "feature_size": 12},
        },
        "stage": [
            {"name": "teach-ball", "recipe": "teach", "label": "ball", "rounds": 3, "train": train},
            {"name": "teach-centre", "recipe": "teach", "label": "centre", "train": train},
            {"name": "label", "recipe": "pseudolabel", "teachers": ["teach-ball", "teach-centre"]},
            {"name": "student", "recipe": "distil", "train": {**train, "steps": 2}},
        ],
    }


@pytest.fixture
def study(study_dict: dict[str, Any]) -> Study:
    """The toy study."""
    return Study.parse(study_dict)


@pytest.fixture
def fill() -> Callable[..., CaseStore]:
    """Writes cases: ``fill(folder, labelled, unlabelled, owns=("ball",))``."""

    def write(
        folder: Path, labelled: int, unlabelled: int = 0, *, owns: tuple[str, ...] = ("ball",)
    ) -> CaseStore:
        store, rng = CaseStore(folder), np.random.default_rng(7)
        axis = np.arange(SIDE)
        for number in range(labelled + unlabelled):
            centre = rng.uniform(7, 13, 3)
            offset = [(axis - c) ** 2 for c in centre]
            distance = offset[0][:, None, None] + offset[1][None, :, None] + offset[2][None, None]
            ball = distance <= 16
            image = np.where(ball, 250, -100) + rng.normal(0, 20, ball.shape)
            point = tuple(
                float(o + c * s) for o, c, s in zip(ORIGIN, centre[::-1], SPACING, strict=True)
            )
            truth = owns if number < labelled else ()
            info = CaseInfo(
                id=f"case{number:02d}",
                shape=(SIDE, SIDE, SIDE),
                spacing_mm=SPACING,
                origin_mm=ORIGIN,
                masks=("ball",) if "ball" in truth else (),
                points={"centre": {"middle": point}} if "centre" in truth else {},
            )
            masks = {"ball": ball.astype(np.uint8)} if "ball" in truth else {}
            store.write_case(info, image.astype(np.int16), masks)
        return store

    return write


@pytest.fixture
def order() -> Callable[..., RecipeContext]:
    """Makes a context of a stage with fresh weights: ``order(study, "stage", store, **more)``."""

    def make(study: Study, name: str, store: CaseStore, **more: Any) -> RecipeContext:
        stage = study.stage_named(name)
        if "weights" not in more and stage.recipe in {"teach", "distil"}:
            more["weights"] = export(initial(lambda: module_of(study, stage), 1))
        return RecipeContext(study, stage, more.pop("round", 1), store, device="cpu", **more)

    return make
