"""Laws of masked context modelling: what is hidden stays hidden, and what is learned is handed on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.pretrain_context import guess
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.cases import Case
from stillroom.client.training.device import choose_device
from stillroom.client.training.targets import Grid
from stillroom.client.training.tiles import Windows, WindowSource, covering, split
from stillroom.common.errors import ConfigError
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.context import ContextModel, context_loss, targets_of
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.student import build_student
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import Study

Fill = Callable[..., CaseStore]
OPTIONS = {"tiles": [2, 1, 1], "tile": 16, "width": 16, "depth": 1}


@pytest.fixture
def study(study_dict: dict[str, Any]) -> Study:
    """A warm-up between the teachers and the student that starts from it."""
    train = {"steps": 2, "batch_size": 2}
    warm = {"name": "warm", "recipe": "pretrain_context", "teachers": ["teach-ball"]}
    study_dict["stage"].insert(2, {**warm, "rounds": 2, "train": train, "options": OPTIONS})
    study_dict["stage"][-1]["start"] = "warm"
    return Study.parse(study_dict)


def weights_of(study: Study, name: str, seed: int) -> dict[str, Any]:
    stage = study.stage_named(name)
    return export(initial(lambda: module_of(study, stage), seed))


@pytest.fixture
def context(study: Study, fill: Fill, tmp_path: Path) -> RecipeContext:
    """The warm-up's first round at a site with two labelled and two unlabelled cases."""
    return RecipeContext(
        study,
        study.stage_named("warm"),
        1,
        fill(tmp_path / "a", 2, 2),
        device="cpu",
        weights=weights_of(study, "warm", 1),
        teachers={"teach-ball": (weights_of(study, "teach-ball", 2), "t" * 64)},
    )


@pytest.fixture
def model(study: Study) -> ContextModel:
    """Fresh, in windows of four tiles' worth of two."""
    built = initial(lambda: module_of(study, study.stage_named("warm")), 3)
    assert isinstance(built, ContextModel)
    return built


def test_loss_is_the_mean_distance_of_what_counts() -> None:
    """|1 - 3| and |2 - 2| over two channels is 1; the tile that does not count is ignored."""
    guesses = torch.tensor([[[1.0, 2.0], [100.0, 100.0]]])
    counted = torch.tensor([[True, False]])

    assert float(context_loss(guesses, torch.tensor([[3.0, 2.0]]), counted)) == 1.0


def test_targets_are_normed_one_by_one() -> None:
    """Scale and offset of a teacher's vector do not matter."""
    vector = torch.randn(3, 8)

    torch.testing.assert_close(targets_of(7 * vector + 5), targets_of(vector), rtol=0, atol=1e-4)
    torch.testing.assert_close(targets_of(vector).mean(1), torch.zeros(3), rtol=0, atol=1e-6)


def test_hidden_pixels_never_reach_the_encoder(model: ContextModel) -> None:
    """Replaced by noise they change no output and no gradient by a single bit, and have none."""
    tiles = torch.randn(4, 1, 16, 16, 16)
    hidden = torch.tensor([[True, False], [False, True]])
    noisy = tiles.clone()
    noisy[hidden.flatten()] = 1e3 * torch.randn(2, 1, 16, 16, 16)
    seen = []
    for given in (tiles, noisy):
        given.requires_grad_()
        model.zero_grad()
        guesses = model(given, hidden)
        guesses.square().sum().backward()
        assert given.grad is not None
        assert not given.grad[hidden.flatten()].any()
        assert given.grad[~hidden.flatten()].any()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        seen.append([guesses.detach(), *gradients])

    assert len(seen[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_seen_tiles_keep_their_places(model: ContextModel) -> None:
    """Two seen tiles swapped give another guess: the predictor knows where they lie."""
    tiles = torch.randn(2, 1, 16, 16, 16)
    hidden = torch.zeros(1, 2, dtype=torch.bool)

    swapped = model(tiles.flip(0), hidden).flip(1)

    assert not torch.allclose(model(tiles, hidden), swapped)


def test_no_gradient_reaches_the_teacher(study: Study, model: ContextModel) -> None:
    """It is frozen by how it is used, too."""
    teacher = module_of(study, study.stage_named("teach-ball")).eval()
    hidden = torch.tensor([[True, False]])
    batch = Windows(torch.randn(2, 1, 16, 16, 16), {}, ("a/0",), hidden)

    losses = guess(model, teacher, batch, choose_device("cpu"), everywhere=True)
    losses["context"].backward()

    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_tiles_are_cut_in_order() -> None:
    """Tile k of a window is the k-th block, x fastest."""
    window = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)

    tiles = split(window, (1, 2, 3))

    assert tiles.shape == (6, 1, 2, 2, 2)
    assert torch.equal(tiles[4], window[:, :, 2:4, 2:4])


def test_windows_cover_a_case_and_come_once(study: Study) -> None:
    """An epoch sees every window of every case once, with the given number of tiles hidden."""
    grid = Grid((20, 40, 33), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    case = Case("c", grid, np.zeros(grid.shape, np.int16), {}, None)
    source = WindowSource(
        ["c"], lambda _: case, volume=study.volume, counts=(1, 2, 1), tile=(16, 16, 16),
        hidden=1, batch_size=4, seed=0,
    )  # fmt: skip

    batches = [source.draw() for _ in range(3)]

    ids = [one for batch in batches for one in batch.ids]
    assert len(covering(grid.shape, (16, 32, 16))) == 2 * 2 * 3
    assert sorted(ids) == sorted(f"c/{n}" for n in range(12))
    assert all(batch.hidden.sum(1).tolist() == [1] * 4 for batch in batches)
    assert batches[0].x.shape == (8, 1, 16, 16, 16)


def test_two_rounds_repeat_and_leave_what_may_leave(context: RecipeContext, study: Study) -> None:
    """Equal seeds give equal bytes; the update fits the manifest and weighs by windows."""
    recipe = RECIPES["pretrain_context"]
    first, again = recipe.run(context), recipe.run(context)
    assert first.weights is not None
    assert again.weights is not None
    second = recipe.run(replace(context, round=2, weights=first.weights))

    assert all(first.weights[n].tobytes() == again.weights[n].tobytes() for n in first.weights)
    for result in (first, second):
        assert result.weights is not None
        check_metrics(result.metrics, study)
        module = module_of(study, context.stage)
        manifest_of(module).check(result.weights, max_norm=1e6)
        assert set(result.samples) == {"encoder", "context"}
        assert result.samples["encoder"] == 4
        assert result.metrics["train.cases"] <= 4
        assert result.metrics["train.context.loss"] > 0
    moved = [n for n in first.weights if (first.weights[n] != context.weights[n]).any()]  # type: ignore[index]
    assert any(name.startswith("encoder.swin") for name in moved)
    assert any(name.startswith("context.predictor") for name in moved)


def test_the_student_takes_the_encoder(context: RecipeContext, study: Study) -> None:
    """Every tensor of the group has the name and shape that the student knows it by."""
    student = weights_of(study, "student", 5)
    warm = context.weights or {}

    handed = {name for name in warm if name.startswith("encoder.")}

    assert handed == {name for name in student if name.startswith("encoder.")}
    assert all(warm[name].shape == student[name].shape for name in handed)


def test_learning_lowers_the_loss(context: RecipeContext) -> None:
    """Twenty steps, measured on the same windows with the same tiles hidden."""
    train = context.stage.train.model_copy(update={"steps": 20, "learning_rate": 2e-2})
    longer = replace(context, stage=context.stage.model_copy(update={"train": train}))
    recipe = RECIPES["pretrain_context"]

    before = recipe.run(context).metrics["train.loss"]
    trained = recipe.run(longer)
    after = recipe.run(replace(context, weights=trained.weights)).metrics["train.loss"]

    assert after < 0.95 * before


FLAT = {
    "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 1], "hu_window": [-200, 400]},
    "model": {
        "student": {"arch": "pocket-unet", "channels": [4, 8, 8]},
        "denoiser": {"arch": "diffusion-unet", "channels": [8, 16]},
    },
    "stage": [
        {"name": "guide", "recipe": "pretrain_diffusion"},
        {"name": "warm", "recipe": "pretrain_context", "teachers": ["guide"],
         "options": OPTIONS | {"tiles": [2, 2]}},
    ],
}  # fmt: skip
DEEP = {
    "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32], "hu_window": [-200, 400]},
    "model": {"student": {"arch": "swin-unetr", "feature_size": 12}},
    "stage": [
        {"name": "guide", "recipe": "distil"},
        {"name": "warm", "recipe": "pretrain_context", "teachers": ["guide"],
         "options": OPTIONS | {"tile": 32}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("parts", [FLAT, DEEP], ids=["slices, denoiser", "swin-unetr, student"])
def test_other_students_and_teachers(study_dict: dict[str, Any], parts: dict[str, Any]) -> None:
    """Slices and volumes, the paper's student and a generative teacher: all learn alike."""
    study = Study.parse(study_dict | parts)
    teacher = module_of(study, study.stage_named("guide")).eval()
    model = module_of(study, study.stage_named("warm"))
    side = 16 if parts is FLAT else 32
    count = 4 if parts is FLAT else 2
    tile = (1 if parts is FLAT else side, side, side)
    hidden = torch.zeros(1, count, dtype=torch.bool)
    hidden[0, 0] = True
    batch = Windows(torch.randn(count, 1, *tile), {}, ("a/0",), hidden)

    loss = guess(model, teacher, batch, choose_device("cpu"), everywhere=False)["context"]
    loss.backward()

    assert torch.isfinite(loss)
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("encoder.") for name in reached)
    names = {n for n, _ in model.named_parameters()}
    own = {n for n, _ in build_student(study).named_parameters() if n.startswith("encoder.")}
    assert own == {n for n in names if n.startswith("encoder.")}


@pytest.mark.parametrize(
    ("options", "code"),
    [({"tiles": [1, 1, 1]}, "STR-102"), ({"tiles": [2, 2]}, "STR-102"), ({"tile": 9}, "STR-106")],
    ids=["one tile", "squares", "size"],
)
def test_windows_that_cannot_be_are_refused(
    study_dict: dict[str, Any], options: dict[str, Any], code: str
) -> None:
    """Before anything is computed, or when the networks are first built."""
    stage = {"name": "warm", "recipe": "pretrain_context", "teachers": ["teach-ball"]}
    study_dict["stage"].append({**stage, "options": OPTIONS | options})

    def build() -> None:
        study = Study.parse(study_dict)
        module_of(study, study.stage_named("warm"))

    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.code == code
