"""Laws of ``adapt``: what learns, what never moves, and from which cases."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.cohort import first_of
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.slices import labelled_slices, slice_of
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study

Fill = Callable[..., CaseStore]
BACKBONES = {"teach-ball": "cnn", "student": "decoder", "dream": "up_blocks"}


def study_with(study_dict: dict[str, Any], below: str, **options: Any) -> Study:
    """The toy with a denoiser and an adapter on ``below``; a flat patch where slices are counted."""
    study_dict["model"]["denoiser"] = {"arch": "diffusion-unet", "channels": [8, 8]}
    train = {"learning_rate": 1e-2, "steps": 2, "batch_size": 2}
    study_dict["stage"] += [
        {"name": "dream", "recipe": "pretrain_diffusion", "train": train},
        {
            "name": "onto",
            "recipe": "adapt",
            "label": "ball",
            "rounds": 2,
            "backbone": below,
            "options": options,
            "train": train,
        },
    ]
    if "slices" in options:
        study_dict["volume"]["patch"] = [16, 16, 1]
    return Study.parse(study_dict)


def begin(study: Study, store: CaseStore) -> RecipeContext:
    """Round 1 of the adapter over a backbone with random weights."""
    stage = study.stage_named("onto")
    below = study.stage_named(stage.backbone or "")
    weights = export(initial(lambda: module_of(study, below), 2))
    return RecipeContext(
        study,
        stage,
        1,
        store,
        weights=export(initial(lambda: module_of(study, stage), 1)),
        teachers={below.name: (weights, "0" * 64)},
        device="cpu",
    )


def copies(weights: Any) -> dict[str, bytes]:
    """Every tensor's bytes."""
    return {name: value.tobytes() for name, value in weights.items()}


@pytest.mark.parametrize("below", BACKBONES)
def test_only_the_layer_moves(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path, below: str
) -> None:
    """On each kind of backbone the layer learns and repeats, and the backbone keeps every bit."""
    study = study_with(study_dict, below)
    context = begin(study, fill(tmp_path / "a", 4))
    theirs = context.teachers[below][0]
    before = copies(theirs)

    first = RECIPES["adapt"].run(context)
    again = RECIPES["adapt"].run(context)
    second = RECIPES["adapt"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert second.weights is not None
    check_metrics(first.metrics, study)
    manifest_of(module_of(study, context.stage)).check(first.weights, max_norm=1e6)
    assert copies(first.weights) == copies(again.weights)
    assert set(first.weights) == {"heads.ball.weight", "heads.ball.bias"}
    assert all(not np.array_equal(first.weights[n], second.weights[n]) for n in first.weights)
    assert first.samples == {"head.ball": 3}
    assert copies(theirs) == before
    scores = RECIPES["adapt"].evaluate(replace(context, weights=second.weights)).metrics
    check_metrics(scores, study)
    assert scores["eval.ball.ball.cases"] == 1


@pytest.mark.parametrize("below", ["student", "dream"])
def test_a_decoder_starts_as_the_backbones(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path, below: str
) -> None:
    """The first round begins from the artefact's decoder, later ones from what was averaged."""
    study = study_with(study_dict, below, how="decoder")
    slow = study.stage_named("onto").train.model_copy(update={"learning_rate": 1e-6, "steps": 1})
    context = begin(study, fill(tmp_path / "a", 4))
    context = replace(context, stage=context.stage.model_copy(update={"train": slow}))
    theirs = context.teachers[below][0]
    before = copies(theirs)

    first = RECIPES["adapt"].run(context).weights
    later = RECIPES["adapt"].run(replace(context, round=2)).weights

    assert first is not None
    assert later is not None
    assert context.weights is not None
    taken = [name for name in first if not name.startswith("heads.")]
    assert {name.split(".")[0] for name in taken} >= {BACKBONES[below]}
    for name in taken:
        assert np.allclose(first[name], theirs[name], atol=1e-5)
        assert np.allclose(later[name], context.weights[name], atol=1e-5)
    assert any(not np.array_equal(first[name], theirs[name]) for name in taken)
    assert copies(theirs) == before


def test_a_network_learns_again_after_it_was_a_backbone(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path
) -> None:
    """Networks are kept warm; one that was frozen is not frozen for the next who trains it."""
    study = study_with(study_dict, "teach-ball")
    store = fill(tmp_path / "a", 4)
    context = begin(study, store)
    RECIPES["adapt"].run(context)
    weights = context.teachers["teach-ball"][0]
    stage = study.stage_named("teach-ball")
    short = stage.model_copy(update={"train": stage.train.model_copy(update={"steps": 1})})

    taught = RECIPES["teach"].run(replace(context, stage=short, weights=weights)).weights

    assert taught is not None
    assert all(not np.array_equal(taught[n], weights[n]) for n in taught if "weight" in n)


def test_the_same_few_cases_in_every_round(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path
) -> None:
    """Chosen by the study's seed alone, fewer among more, validation cases never."""
    study = study_with(study_dict, "student", cases=2)
    store = fill(tmp_path / "a", 8, 2)
    context = begin(study, store)
    infos = [store.info(case_id) for case_id in store.ids()]
    recipe: Any = RECIPES["adapt"]

    chosen = recipe.cases(context, infos)

    assert len(chosen) == 2
    assert chosen == recipe.cases(replace(context, round=2, seed=9), infos[::-1])
    names = [info.id for info in infos]
    fewer, more = (set(first_of(names, seed=3, most=n)) for n in (2, 5))
    assert fewer < more
    assert first_of(names, seed=3, most=None) != first_of(names, seed=4, most=None)
    assert RECIPES["adapt"].run(context).samples == {"head.ball": 2}


def test_few_labelled_slices(study_dict: dict[str, Any], fill: Fill, tmp_path: Path) -> None:
    """K slices are k samples; each is a cut of its case, with what is drawn on it."""
    study = study_with(study_dict, "dream", slices=3, timestep=50)
    store = fill(tmp_path / "a", 4)
    longer = study.stage_named("onto").train.model_copy(update={"steps": 4})
    context = begin(study, store)
    context = replace(context, stage=context.stage.model_copy(update={"train": longer}))

    result = RECIPES["adapt"].run(context)

    assert result.samples == {"head.ball": 3}
    assert result.metrics["train.cases"] <= 3
    read = WorkingSet.of_stage(store, study, context.stage).case
    names = labelled_slices(["case00"], read, "ball")
    case, one = read("case00"), slice_of(names[0], read)
    number = int(names[0].split("/")[1])
    assert np.array_equal(one.image[0], case.image[number])
    assert np.array_equal(one.targets["ball"][0], case.targets["ball"][number])
    assert one.grid.origin_mm == case.grid.point_at(np.array([number, 0.0, 0.0]))
    assert len(names) == int(case.targets["ball"].any((1, 2)).sum())
