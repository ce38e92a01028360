"""Laws of bags: attention is a weighing without order, and scores are what they say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.client.recipes.bags import classify
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.cases import Case
from stillroom.client.training.classification import area_under_curve, score_classes
from stillroom.client.training.device import choose_device
from stillroom.client.training.losses import Target
from stillroom.client.training.targets import Grid
from stillroom.client.training.tiles import Bags, Vectors
from stillroom.common.errors import ConfigError, DataError
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.bags import BagClassifier, GatedPool, TransformerPool
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study, Volume

SIDE = 32
TRAIN = {"steps": 2, "batch_size": 2, "learning_rate": 3e-3}
OPTIONS = {"tile": 16, "width": 16, "most_tiles": 4}


@pytest.fixture
def study(study_dict: dict[str, Any]) -> Study:
    """A label of whole scans, learned with the student's encoder and with a frozen teacher's."""
    study_dict["label"]["blob"] = {"kind": "bag", "classes": ["none", "some"]}
    study_dict["study"]["validation_fraction"] = 0.0
    own = {"recipe": "bags", "label": "blob", "rounds": 2, "train": TRAIN}
    study_dict["stage"] += [
        {**own, "name": "tell", "start": "student", "options": OPTIONS},
        {**own, "name": "tell-frozen", "backbone": "teach-ball",
         "options": {**OPTIONS, "train_extractor": False, "pooling": "transformer", "depth": 1}},
    ]  # fmt: skip
    return Study.parse(study_dict)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Four scans, two of them with a bright blob in one corner, and one that nobody has judged."""
    store, rng = CaseStore(tmp_path / "a"), np.random.default_rng(3)
    for number in range(5):
        image = rng.normal(-100, 20, (SIDE,) * 3)
        if number % 2:
            image[4:12, 20:28, 4:12] = 350
        info = CaseInfo(
            id=f"case{number}",
            shape=(SIDE,) * 3,
            spacing_mm=(2.0,) * 3,
            origin_mm=(0.0,) * 3,
            bags={"blob": "some" if number % 2 else "none"} if number < 4 else {},
        )
        store.write_case(info, image.astype(np.int16), {})
    return store


def order(study: Study, name: str, store: CaseStore, **more: Any) -> RecipeContext:
    stage = study.stage_named(name)
    weights = export(initial(lambda: module_of(study, stage), 1))
    inputs = {}
    for earlier in map(study.stage_named, stage.inputs):
        fresh = initial(lambda earlier=earlier: module_of(study, earlier), 2)
        inputs[earlier.name] = (export(fresh), "t" * 64)
    return RecipeContext(
        study, stage, 1, store, device="cpu", weights=weights, teachers=inputs, **more
    )


@pytest.mark.parametrize("pool", [GatedPool(8, 4), TransformerPool(8, 1)], ids=["gated", "trans"])
def test_the_order_of_tiles_does_not_matter(pool: torch.nn.Module) -> None:
    """A bag is a set."""
    tiles = torch.randn(7, 8)

    with torch.no_grad():
        there, back = pool.eval()(tiles), pool(tiles.flip(0))

    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-6)


def test_attention_weighs() -> None:
    """Weights are positive and 1 in sum; a lone tile has all of it; equal tiles share it."""
    pool = GatedPool(8, 4)

    weights = pool.attention(torch.randn(9, 8)).detach()

    assert float(weights.sum()) == pytest.approx(1.0)
    assert (weights > 0).all()
    tile = torch.randn(1, 8)
    torch.testing.assert_close(pool(tile), tile[0])
    torch.testing.assert_close(pool.attention(tile.expand(4, 8)), torch.full((4,), 0.25))


def test_gated_attention_is_the_papers() -> None:
    """softmax(w (tanh(V h) * sigmoid(U h))), worked out by hand for width one."""
    pool = GatedPool(1, 1)
    with torch.no_grad():
        for layer, value in ((pool.v, 1.0), (pool.u, 0.0)):
            layer.weight.fill_(value)
            layer.bias.zero_()
        pool.w.weight.fill_(2.0)

    weights = pool.attention(torch.tensor([[0.0], [1.0]])).detach()

    assert float(weights[1] / weights[0]) == pytest.approx(float(np.exp(np.tanh(1.0))))


def test_bags_do_not_mix() -> None:
    """Each bag's logits are those it has alone."""
    model = BagClassifier("blob", 3, features=5, width=8, pool=GatedPool(8, 8), extractor=None)
    tiles = torch.randn(6, 5)

    with torch.no_grad():
        both = model(tiles, (2, 4))
        alone = torch.cat([model(tiles[:2], (2,)), model(tiles[2:], (4,))])

    torch.testing.assert_close(both, alone)


def batch_of(targets: dict[str, Target]) -> Bags:
    return Bags(torch.randn(3, 5), targets, ("a", "b"), (1, 2))


def test_an_absent_label_contributes_nothing() -> None:
    """A batch without the label has no loss; a bag without it has no gradient."""
    model = BagClassifier("blob", 2, features=5, width=8, pool=GatedPool(8, 8), extractor=None)
    device = choose_device("cpu")
    half = batch_of({"blob": Target(torch.tensor([1]), torch.tensor([0]))})
    seen: list[Tensor] = []

    def features(tiles: Tensor) -> Tensor:
        seen.append(tiles.clone().requires_grad_())
        return seen[-1]

    assert classify(model, features, batch_of({}), device, label="blob") == {}
    classify(model, features, half, device, label="blob")["blob"].backward()
    gradient = seen[-1].grad
    assert gradient is not None
    assert not gradient[0].any()
    assert gradient[1:].any()


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([5, 5, 5], [1, 0, 0], 0.5),
        ([1, 2, 2, 3], [0, 1, 0, 1], 0.875),
        ([1, 2], [1, 1], None),
        ([1, 2], [0, 0], None),
    ],
)
def test_area_under_the_curve(scores: list[float], positive: list[int], area: float | None) -> None:
    """Known values; a tie is half a win; without a rest there is none."""
    found = area_under_curve(np.asarray(scores, float), np.asarray(positive, bool))

    assert found == (None if area is None else pytest.approx(area))


def test_scores_are_per_class() -> None:
    """Accuracies weighted by cases are the accuracy of all; a class that no scan has is not told."""
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]])

    numbers = score_classes("l", ("a", "b", "c"), probabilities, np.array([0, 1, 1]))

    assert numbers == {
        "eval.l.a.cases": 1,
        "eval.l.a.accuracy": 1.0,
        "eval.l.a.auc": 1.0,
        "eval.l.b.cases": 2,
        "eval.l.b.accuracy": 0.5,
        "eval.l.b.auc": 1.0,
    }


@pytest.mark.parametrize("name", ["tell", "tell-frozen"])
def test_two_rounds_repeat_and_leave_what_may_leave(
    study: Study, store: CaseStore, name: str
) -> None:
    """Equal seeds give equal bytes; groups weigh by scans; a frozen extractor does not travel."""
    context = order(study, name, store)
    recipe = RECIPES["bags"]
    first, again = recipe.run(context), recipe.run(context)
    assert first.weights is not None
    assert again.weights is not None
    second = recipe.run(replace(context, round=2, weights=first.weights))

    assert all(first.weights[n].tobytes() == again.weights[n].tobytes() for n in first.weights)
    groups = {"pool", "head.blob"} | ({"encoder"} if name == "tell" else set())
    for result in (first, second):
        assert result.weights is not None
        check_metrics(result.metrics, study)
        manifest_of(module_of(study, context.stage)).check(result.weights, max_norm=1e6)
        assert result.samples == dict.fromkeys(groups, 4)
        assert result.metrics["train.blob.loss"] == result.metrics["train.loss"]


def test_a_frozen_extractor_reads_each_scan_once() -> None:
    """Vectors are those of the tiles asked for, in that order, and are made a single time."""
    grid = Grid((16, 16, 48), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    image = np.zeros(grid.shape, np.int16)
    image[:, :, 16:32], image[:, :, 32:] = 100, 200
    case, calls = Case("c", grid, image, {}, None), list[int]()

    def extract(tiles: Tensor) -> Tensor:
        calls.append(len(tiles))
        return tiles.mean((2, 3, 4))

    volume = Volume(spacing_mm=(1, 1, 1), patch=(16, 16, 16), hu_window=(0, 200))
    look = Vectors((16, 16, 16), volume, extract)

    assert look(case, [2, 0]).flatten().tolist() == [1.0, -1.0]
    assert look(case, [1]).flatten().tolist() == [0.0]
    assert calls == [3]


def test_the_extractor_begins_from_the_student(study: Study, store: CaseStore) -> None:
    """The first round's encoder is the earlier stage's, moved by two small steps."""
    context = order(study, "tell", store)
    slow = context.stage.train.model_copy(update={"learning_rate": 1e-9})
    still = replace(context, stage=context.stage.model_copy(update={"train": slow}))

    weights = RECIPES["bags"].run(still).weights

    assert weights is not None
    theirs, _ = context.teachers["student"]
    for name in weights:
        if name.startswith("encoder."):
            np.testing.assert_allclose(weights[name], theirs[name], atol=1e-6)


def test_a_classifier_learns_the_toy(study: Study, store: CaseStore, tmp_path: Path) -> None:
    """Thirty steps find the blob in every scan; predictions stay in the site's folder."""
    context = order(study, "tell", store)
    train = context.stage.train.model_copy(update={"steps": 30})
    options = {**context.stage.options, "most_tiles": 8}
    stage = context.stage.model_copy(update={"train": train, "options": options})
    context = replace(context, stage=stage)

    trained = replace(context, weights=RECIPES["bags"].run(context).weights, role="held_out")
    metrics = RECIPES["bags"].evaluate(trained, tmp_path / "kept").metrics

    check_metrics(metrics, study)
    assert metrics["eval.cases"] == 4
    assert metrics["eval.blob.some.auc"] == metrics["eval.blob.none.auc"] == 1.0
    assert metrics["eval.blob.some.cases"] == 2
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        f"case{n}.json" for n in range(4)
    ]


def test_a_site_without_the_label_says_so(study: Study, tmp_path: Path) -> None:
    """No judged scan: nothing to learn and nothing to score."""
    context = order(study, "tell", CaseStore(tmp_path / "none"))

    for act in (RECIPES["bags"].run, RECIPES["bags"].evaluate):
        with pytest.raises(DataError) as caught:
            act(context)
        assert caught.value.code == "STR-401"


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "teach-ball"},
        {"options": {"train_extractor": False}},
        {"label": "ball"},
        {"start": "student", "backbone": "teach-ball", "options": {"train_extractor": False}},
    ],
    ids=["both", "neither", "mask", "two"],
)
def test_contradictions_are_refused(study_dict: dict[str, Any], change: dict[str, Any]) -> None:
    """Before anything starts."""
    study_dict["label"]["blob"] = {"kind": "bag", "classes": ["none", "some"]}
    stage = {"name": "tell", "recipe": "bags", "label": "blob"}
    study_dict["stage"].append(stage | change)

    with pytest.raises(ConfigError):
        Study.parse(study_dict)
