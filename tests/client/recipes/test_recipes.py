"""Laws of the recipes, on a toy that trains in seconds."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.client.intake.store import CaseStore, Provenance
from stillroom.client.recipes import rounds
from stillroom.client.recipes.cohort import training_cases, validation_ids
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES, evaluate, inventory
from stillroom.common.errors import DataError, ResourceError
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.recipes.registry import declarations
from stillroom.common.study import Privacy, Study

Fill = Callable[..., CaseStore]
Order = Callable[..., RecipeContext]


def provenance(*, complete: bool = True, expires_in: float = 60.0) -> Provenance:
    now = time.time()
    return Provenance("0" * 64, "label", complete, int(not complete), now, now + expires_in)


def test_every_recipe_of_a_study_file_exists() -> None:
    """A study that passes its check can be run."""
    assert set(RECIPES) == set(declarations())


def test_a_teacher_learns_the_toy(study: Study, fill: Fill, order: Order, tmp_path: Path) -> None:
    """Three short rounds lower the loss and reach a Dice above 0.8 on cases never seen."""
    store = fill(tmp_path / "a", 8)
    context = order(study, "teach-ball", store)
    losses = []
    for number in (1, 2, 3):
        result = RECIPES["teach"].run(replace(context, round=number))
        check_metrics(result.metrics, study)
        losses.append(result.metrics["train.loss"])
        context = replace(context, weights=result.weights)

    scores = evaluate(context).metrics

    check_metrics(scores, study)
    assert losses[-1] < 0.7 * losses[0]
    assert scores["eval.ball.ball.cases"] == 2
    assert scores["eval.ball.ball.dice"] > 0.8
    assert scores["eval.ball.ball.detected"] == 1.0


def test_equal_seeds_give_equal_bytes(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """A round on a CPU can be repeated bit for bit; another round differs."""
    context = order(study, "student", fill(tmp_path / "a", 4))

    first = RECIPES["distil"].run(context).weights
    again = RECIPES["distil"].run(context).weights
    other = RECIPES["distil"].run(replace(context, seed=1)).weights

    assert first is not None
    assert again is not None
    assert other is not None
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert any(first[name].tobytes() != other[name].tobytes() for name in first)


def test_drawing_ahead_changes_nothing(
    study: Study, fill: Fill, order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, bit for bit, with batches drawn in the background or not."""
    context = order(study, "student", fill(tmp_path / "a", 4))
    found = []
    for spare in (True, False):
        monkeypatch.setattr(rounds, "has_spare_core", lambda _, spare=spare: spare)
        found.append(bytes_of(RECIPES["distil"].run(context).weights))

    assert found[0] == found[1]


class Kept:
    """A memory of which a round sees what was kept before it."""

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        self.before, self.saved = before, dict[str, Any]()

    def load(self) -> dict[str, Any] | None:
        """What was kept."""
        return self.before

    def save(self, values: Mapping[str, Any]) -> None:
        """For the next round."""
        self.saved = dict(values)


def with_options(context: RecipeContext, **options: Any) -> RecipeContext:
    """``context`` whose stage has other options; ``train`` is merged, others replaced."""
    stage = context.stage
    if "train" in options:
        options["train"] = stage.train.model_copy(update=options["train"])
    return replace(context, stage=stage.model_copy(update=options))


def bytes_of(weights: Mapping[str, Any] | None) -> dict[str, bytes]:
    assert weights is not None
    return {name: value.tobytes() for name, value in weights.items()}


def test_a_proximal_term_holds_the_site_back(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """A round with it ends nearer to the global model than one without."""
    context = order(study, "teach-ball", fill(tmp_path / "a", 4))

    def moved(mu: float) -> float:
        weights = RECIPES["teach"].run(with_options(context, train={"proximal": mu})).weights
        assert weights is not None
        assert context.weights is not None
        return float(sum(np.square(weights[n] - context.weights[n]).sum() for n in weights))

    assert moved(1.0) < 0.9 * moved(0.0)


def test_the_optimiser_is_carried_on(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Steps count on from round to round; a round that is asked again does not step twice."""
    context = order(study, "teach-ball", fill(tmp_path / "a", 4))
    flat = {"learning_rate": 1e-3, "keep_optimiser": True, "steps": 2}
    first, second = Kept(), Kept()
    one = RECIPES["teach"].run(with_options(replace(context, memory=first), train=flat))
    # The same round number: the same learning rate and patches.
    again = replace(context, weights=one.weights, memory=Kept(first.saved))
    two = RECIPES["teach"].run(with_options(again, train=flat))
    repeat = RECIPES["teach"].run(with_options(again, train=flat))
    anew = RECIPES["teach"].run(with_options(replace(again, memory=second), train=flat))

    assert {float(v[0]) for n, v in first.saved.items() if n.endswith(".step")} == {2.0}
    assert {float(v[0]) for n, v in again.memory.saved.items() if n.endswith(".step")} == {4.0}
    assert bytes_of(two.weights) == bytes_of(repeat.weights)
    assert bytes_of(two.weights) != bytes_of(anew.weights)
    assert {float(v[0]) for n, v in second.saved.items() if n.endswith(".step")} == {2.0}


def test_nothing_is_remembered_unasked(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Without the option every round starts anew and leaves nothing."""
    memory = Kept({"nonsense.step": np.zeros(1, np.float32)})

    RECIPES["distil"].run(order(study, "student", fill(tmp_path / "a", 4), memory=memory))

    assert memory.saved == {}


def test_privacy_is_made_before_anything_is_returned(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """The result is noise around the global model, in the head of an absent label too."""
    context = order(study, "student", fill(tmp_path / "a", 4))
    privacy = Privacy(clip_norm=0.01, noise_multiplier=100.0)

    weights = RECIPES["distil"].run(with_options(context, privacy=privacy)).weights

    assert weights is not None
    assert context.weights is not None
    change = np.concatenate([(weights[n] - context.weights[n]).ravel() for n in weights])
    assert change.std() == pytest.approx(1.0, rel=0.02)
    for name in weights:
        if name.startswith("heads.centre."):
            assert not np.any(weights[name] == context.weights[name])


def test_an_absent_label_leaves_its_head_alone(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Not one bit of a head moves at a site without its label, and its group counts no case."""
    context = order(study, "student", fill(tmp_path / "a", 4))

    result = RECIPES["distil"].run(context)

    assert result.weights is not None
    assert context.weights is not None
    for name, before in context.weights.items():
        if name.startswith("heads.centre."):
            assert result.weights[name].tobytes() == before.tobytes()
    assert result.samples["head.centre"] == 0
    assert result.samples["head.ball"] == result.samples["encoder"] == 3


def test_groups_count_distinct_cases_with_that_label(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Pseudo-labels count for their head; the trunk counts every case once, however often drawn."""
    store = fill(tmp_path / "a", 4, 2)
    learners = [info.id for info in training_cases(store, study)]
    for case_id in learners[:2]:
        store.write_pseudo(case_id, "centre", np.ones((20,) * 3, np.uint8), provenance())
    stage = study.stage_named("student")
    longer = stage.model_copy(update={"train": stage.train.model_copy(update={"steps": 5})})
    context = replace(order(study, "student", store), stage=longer)

    samples = RECIPES["distil"].run(context).samples

    # The two unlabelled cases without a pseudo-label teach nothing and are not drawn.
    assert samples == {
        "head.ball": 3,
        "head.centre": 2,
        "encoder": len(set(learners[:2]) | {i for i in learners if store.info(i).labels}),
        "decoder": samples["encoder"],
    }


def test_result_fits_the_manifest(study: Study, fill: Fill, order: Order, tmp_path: Path) -> None:
    """What a recipe returns is what the study says may leave."""
    result = RECIPES["distil"].run(order(study, "student", fill(tmp_path / "a", 4)))
    manifest = manifest_of(module_of(study, study.stage_named("student")))

    assert result.weights is not None
    manifest.check(result.weights, max_norm=1e6)
    assert set(result.samples) == set(manifest.groups)


@pytest.mark.parametrize("stage", ["teach-centre", "student", "label", "teach-ball"])
def test_a_site_without_a_case_says_so(
    study: Study, fill: Fill, order: Order, tmp_path: Path, stage: str
) -> None:
    """An empty site, and a held-out one, raise STR-401 and train nothing."""
    empty = order(study, stage, CaseStore(tmp_path / "none"))
    held_out = order(study, stage, fill(tmp_path / "b", 4), role="held_out")

    for context in (empty, held_out):
        with pytest.raises(DataError) as caught:
            RECIPES[context.stage.recipe].run(context)
        assert caught.value.code == "STR-401"


def test_a_round_can_be_stopped(study: Study, fill: Fill, order: Order, tmp_path: Path) -> None:
    """A hospital's stop ends the round at the next step."""
    context = order(study, "teach-ball", fill(tmp_path / "a", 4), should_stop=lambda: True)

    with pytest.raises(ResourceError):
        RECIPES["teach"].run(context)


def teachers(study: Study) -> dict[str, Any]:
    stages = [study.stage_named(name) for name in ("teach-ball", "teach-centre")]
    return {
        s.name: (export(initial(lambda s=s: module_of(study, s), 2)), s.name[:1] * 64)
        for s in stages
    }


def test_pseudo_labels_never_touch_a_true_label(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Labelled cases are kept; others get a label with its teacher's digest, stage and term."""
    store = fill(tmp_path / "a", 4, 3)
    context = order(study, "label", store, teachers=teachers(study), keep_pseudo_labels_days=2)

    result = RECIPES["pseudolabel"].run(context)

    check_metrics(result.metrics, study)
    assert result.weights is None
    assert result.samples == {}
    assert result.metrics["pseudo.ball.kept"] == 3
    assert result.metrics["pseudo.ball.written"] + result.metrics["pseudo.ball.incomplete"] == 3
    for info in training_cases(store, study):
        found = store.provenance(info.id, "ball")
        if "ball" in info.labels:
            assert found is None
        else:
            assert found is not None
            assert found.teacher_sha256 == "t" * 64
            assert found.stage == "label"
            assert 1.9 < (found.expires_at - time.time()) / 86400 <= 2


@pytest.mark.parametrize(
    "bad", [provenance(complete=False), provenance(expires_in=-1)], ids=["incomplete", "expired"]
)
def test_unusable_pseudo_labels_teach_nothing(
    study: Study, fill: Fill, order: Order, tmp_path: Path, bad: Provenance
) -> None:
    """Neither an incomplete nor an expired one makes a case a training case."""
    store = fill(tmp_path / "a", 0, 2)
    for case_id in store.ids():
        store.write_pseudo(case_id, "ball", np.ones((20,) * 3, np.uint8), bad)

    with pytest.raises(DataError):
        RECIPES["distil"].run(order(study, "student", store))


def test_validation_cases_never_train(study: Study, fill: Fill, tmp_path: Path) -> None:
    """The split is a quarter of the labelled cases, the same at every call."""
    store = fill(tmp_path / "a", 8, 4)
    infos = [store.info(case_id) for case_id in store.ids()]

    kept = validation_ids(infos, study)

    assert len(kept) == 2
    assert kept == validation_ids(infos[::-1], study)
    assert not kept & {info.id for info in training_cases(store, study)}
    assert all(store.info(case_id).labels for case_id in kept)


def test_inventory_counts_true_labels(study: Study, fill: Fill, tmp_path: Path) -> None:
    """Pseudo-labels do not make a site the owner of a label."""
    store = fill(tmp_path / "a", 3, 2)
    store.write_pseudo("case04", "centre", np.ones((20,) * 3, np.uint8), provenance())

    numbers = inventory(store, study)

    check_metrics(numbers, study)
    assert numbers == {
        "inventory.cases": 5,
        "inventory.unlabelled.cases": 2,
        "inventory.ball.cases": 3,
        "inventory.centre.cases": 0,
    }


def test_held_out_site_is_scored_on_everything(
    study: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Every labelled case counts, misses included, and predictions stay in the site's folder."""
    store = fill(tmp_path / "a", 4, 1, owns=("ball", "centre"))
    context = order(study, "student", store, role="held_out")

    numbers = evaluate(context, keep_predictions=tmp_path / "kept").metrics

    check_metrics(numbers, study)
    assert numbers["eval.cases"] == 4
    assert numbers["eval.centre.middle.cases"] == 4
    assert 0 <= numbers["eval.centre.middle.detected"] <= numbers["eval.centre.middle.found"] <= 1
    kept = np.load(tmp_path / "kept" / "case00.ball.npy")
    assert kept.shape == store.info("case00").shape
    assert kept.dtype == np.uint8
    assert "ball" in json.loads((tmp_path / "kept" / "case00.json").read_text())


def test_localiser_finds_the_box(
    study_dict: dict[str, Any], fill: Fill, order: Order, tmp_path: Path
) -> None:
    """A coarse teacher's largest component becomes the box of cases without one, and of no other."""
    stages = study_dict["stage"]
    stages[0]["spacing_mm"] = [2.5, 2.5, 2.5]
    stages.insert(1, {"name": "find", "recipe": "localise", "teachers": ["teach-ball"]})
    study_dict["volume"] |= {"roi": "heart", "margin_mm": 4.0}
    study = Study.parse(study_dict)
    store = fill(tmp_path / "a", 6)
    box = ((0.0, 10.0, 110.0), (10.0, 20.0, 120.0))
    store.write_info(replace(store.info("case00"), roi_mm=box))
    context = order(study, "teach-ball", store)
    for number in (1, 2, 3):
        weights = RECIPES["teach"].run(replace(context, round=number)).weights
        context = replace(context, weights=weights)

    finder = order(study, "find", store, teachers={"teach-ball": (context.weights, "0" * 64)})
    metrics = RECIPES["localise"].run(finder).metrics

    check_metrics(metrics, study)
    assert metrics == {"locate.located": 5, "locate.not_located": 0}
    assert store.info("case00").roi_mm == box
    found = store.info("case01").roi_mm
    assert found is not None
    index = np.argwhere(store.mask("case01", "ball"))
    origin, spacing = np.array([-10.0, 5.0, 100.0]), np.array([2.0, 2.0, 2.0])
    truth = (index.min(0)[::-1] * spacing + origin, index.max(0)[::-1] * spacing + origin)
    assert np.abs(np.array(found) - np.array(truth)).max() < 6.0
