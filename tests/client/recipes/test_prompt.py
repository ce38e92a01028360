"""Laws of ``adapt`` with a visual prompt."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.registry import RECIPES
from stillroom.common.errors import ConfigError
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.pocket import PocketUnet
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.prompt import (
    LabelMap,
    PromptAdapter,
    Prompted,
    VisualPrompt,
    greedy_map,
)
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.recipes.prompt import PromptOptions
from stillroom.common.study import Study

Fill = Callable[..., CaseStore]


@pytest.mark.parametrize(
    ("shape", "known"),
    [((1, 64, 64), 1_792), ((96, 96, 96), 372_736), ((1, 224, 224), 4 * 8 * (224 - 8))],
)
def test_a_border_has_the_known_number_of_values(shape: tuple[int, int, int], known: int) -> None:
    """4 p (S - p) in a slice, S^3 - (S - 2p)^3 in a volume; nothing else is exchanged."""
    tensors = manifest_of(VisualPrompt(shape, pad=8)).tensors

    assert [(spec.name, spec.shape) for spec in tensors] == [("values", (known,))]


def test_a_prompt_changes_the_border_and_nothing_else() -> None:
    """Zero at first; then the frame, in the image's channel alone; everywhere when it is full."""
    prompt, x = VisualPrompt((1, 6, 8), pad=2), torch.randn(3, 2, 1, 6, 8)

    assert torch.equal(prompt(x), x)

    with torch.no_grad():
        prompt.values += 1
        changed = prompt(x) - x
    assert torch.equal(changed[:, 0, 0, 2:-2, 2:-2], torch.zeros(3, 2, 4))
    assert torch.equal(changed[:, 1], torch.zeros_like(changed[:, 1]))
    assert int((changed[:, 0] != 0).sum()) == 3 * (6 * 8 - 2 * 4)
    assert VisualPrompt((2, 3, 4), pad=None).values.numel() == 24


def adapter_on(options: PromptOptions) -> tuple[PocketUnet, PromptAdapter]:
    torch.manual_seed(0)
    backbone = PocketUnet(1, {"a": 2, "b": 3}, (4, 4, 6)).eval().requires_grad_(requires_grad=False)
    adapter = PromptAdapter(
        "new",
        2,
        backbone=backbone,
        reading={},
        options=options,
        shape=(1, 16, 16),
        sources=5,
        seed=0,
    )
    return backbone, adapter


def test_gradients_pass_the_backbone_and_stay_in_the_border() -> None:
    """Prompt and probe learn; what lies inside has no parameter, and the backbone no gradient."""
    backbone, adapter = adapter_on(PromptOptions(pad=3))
    prompt = adapter.prompt
    assert prompt is not None
    x = torch.randn(2, 1, 1, 16, 16)

    Prompted(backbone, adapter, prompt)(x)["new"].square().sum().backward()

    assert all(p.grad is None for p in backbone.parameters())
    assert {n for n, p in adapter.named_parameters() if p.grad is not None} == {
        "heads.new.weight",
        "heads.new.bias",
        "prompt.values",
    }
    assert prompt.values.grad is not None
    assert (prompt.values.grad != 0).float().mean() > 0.9
    assert prompt.index.numel() == 16 * 16 - 10 * 10


def test_the_most_frequent_pair_comes_first_and_each_class_once() -> None:
    """Both targets answer source 2 most; the one that does so more often has it."""
    shares = np.array([[0.1, 0.0, 0.9], [0.3, 0.1, 0.6]])

    assert greedy_map(shares).tolist() == [2, 0]
    for seed in range(20):
        many = np.random.default_rng(seed).random((4, 7))
        found = greedy_map(many)
        assert len(set(found.tolist())) == 4
        assert many.max() == many[np.arange(4), found].max()


def test_a_map_is_one_to_one_and_the_same_at_every_site() -> None:
    """By chance from the study's seed; by frequency once frequencies arrived."""
    maps = [LabelMap(3, 8, seed=s, counted=True) for s in (4, 4)]
    assert maps[0].chance.tolist() == maps[1].chance.tolist()
    assert len(set(maps[0].chance.tolist())) == 3

    logits = torch.zeros(1, 8, 1, 1, 6)
    for voxel, source in enumerate([5, 5, 1, 7, 7, 7]):
        logits[0, source, 0, 0, voxel] = 1
    classes = torch.tensor([0, 0, 0, 1, 1, 2]).view(1, 1, 1, 6)
    first = maps[0]
    first.begin()
    assert torch.equal(first(logits), logits[:, torch.from_numpy(first.chance)])
    first.count(logits, classes)
    first.begin()

    assert first.frequency[0, [5, 1]].tolist() == pytest.approx([2 / 3, 1 / 3])
    mapped = first(logits).argmax(1).flatten()
    # Class 1 answered 7 in both of its voxels and comes first, class 2 in its only one too.
    assert mapped[0] == 0
    assert mapped[3] == 1


class Kept:
    """A memory that shows what was saved."""

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        self.before, self.saved = before, dict[str, Any]()

    def load(self) -> dict[str, Any] | None:
        """What was kept."""
        return self.before

    def save(self, values: Mapping[str, Any]) -> None:
        """For the next round."""
        self.saved = dict(values)


def study_with(study_dict: dict[str, Any], below: str = "student", **prompt: Any) -> Study:
    """The toy with a prompt on a network, of slices."""
    study_dict["volume"]["patch"] = [16, 16, 1]
    study_dict["model"] = {
        "teacher": {"arch": "slice-unet", "channels": [4, 6, 8]},
        "student": {"arch": "pocket-unet", "channels": [4, 6, 8]},
        "denoiser": {"arch": "diffusion-unet", "channels": [8, 8]},
    }
    train = {"learning_rate": 1e-2, "steps": 2, "batch_size": 2}
    study_dict["stage"] += [
        {"name": "dream", "recipe": "pretrain_diffusion", "train": train},
        {
            "name": "onto",
            "recipe": "adapt",
            "label": "ball",
            "rounds": 3,
            "backbone": below,
            "options": {"how": "prompt", "prompt": {"pad": 2, **prompt}},
            "train": train,
        },
    ]
    return Study.parse(study_dict)


def begin(study: Study, store: CaseStore, **more: Any) -> RecipeContext:
    """Round 1 over a backbone with random weights."""
    stage = study.stage_named("onto")
    below = study.stage_named(stage.backbone or "")
    theirs = export(initial(lambda: module_of(study, below), 2))
    weights = export(initial(lambda: module_of(study, stage), 1))
    models = {below.name: (theirs, "0" * 64)}
    return RecipeContext(
        study, stage, 1, store, weights=weights, teachers=models, device="cpu", **more
    )


@pytest.mark.parametrize(
    ("below", "discrepancy"),
    [
        ("student", "none"),
        ("student", "ce_plain"),
        ("student", "kl"),
        ("student", "feat"),
        ("teach-ball", "kl"),
        ("dream", "kl"),
    ],
)
def test_prompt_and_probe_learn_and_nothing_else_moves(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path, below: str, discrepancy: str
) -> None:
    """Two rounds on every kind of backbone and with every discrepancy; equal seeds, equal bytes."""
    study = study_with(study_dict, below, discrepancy=discrepancy)
    context = begin(study, fill(tmp_path / "a", 2))
    before = {n: v.tobytes() for n, v in context.teachers[below][0].items()}

    first = RECIPES["adapt"].run(context)
    again = RECIPES["adapt"].run(context)
    second = RECIPES["adapt"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert again.weights is not None
    assert second.weights is not None
    check_metrics(first.metrics, study)
    assert ("train.discrepancy.loss" in first.metrics) == (discrepancy != "none")
    manifest_of(module_of(study, context.stage)).check(first.weights, max_norm=1e6)
    assert {n: v.tobytes() for n, v in first.weights.items()} == {
        n: v.tobytes() for n, v in again.weights.items()
    }
    assert set(first.samples) == {"prompt", "head.ball"}
    assert first.weights["prompt.values"].any()
    assert not np.array_equal(first.weights["prompt.values"], second.weights["prompt.values"])
    assert {n: v.tobytes() for n, v in context.teachers[below][0].items()} == before
    scores = RECIPES["adapt"].evaluate(replace(context, weights=second.weights, role="held_out"))
    check_metrics(scores.metrics, study)


def test_a_private_prompt_stays_and_is_used_where_it_learned(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path
) -> None:
    """The probe alone is exchanged; the prompt is kept, goes on, and takes part in scoring."""
    study = study_with(study_dict, share=False)
    memory = Kept()
    context = begin(study, fill(tmp_path / "a", 2), memory=memory)

    first = RECIPES["adapt"].run(context)
    recipe: Any = RECIPES["adapt"]
    later = replace(context, round=2, weights=first.weights, memory=Kept(memory.saved))
    device = later.choose_device()

    assert first.weights is not None
    assert set(first.weights) == {"heads.ball.weight", "heads.ball.bias"}
    assert set(memory.saved) == {"private.values"}
    kept = recipe.predictor(later, device).prompt.values.detach().numpy()
    assert np.array_equal(kept, memory.saved["private.values"])
    assert kept.any()
    stranger = recipe.predictor(replace(later, memory=Kept()), device).prompt.values
    assert not stranger.any()


def test_the_probe_may_learn_first(study_dict: dict[str, Any], fill: Fill, tmp_path: Path) -> None:
    """The prompt waits at 0 and learns from the round after."""
    study = study_with(study_dict, probe_rounds=1)
    context = begin(study, fill(tmp_path / "a", 2))

    first = RECIPES["adapt"].run(context)
    second = RECIPES["adapt"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert second.weights is not None
    assert context.weights is not None
    assert not first.weights["prompt.values"].any()
    assert not np.array_equal(
        first.weights["heads.ball.weight"], context.weights["heads.ball.weight"]
    )
    assert second.weights["prompt.values"].any()


@pytest.mark.parametrize("mapping", ["random", "frequency"])
def test_without_a_probe_the_prompt_learns_alone(
    study_dict: dict[str, Any], fill: Fill, tmp_path: Path, mapping: str
) -> None:
    """The baselines: classes of the backbone stand for those of the label; shares of counts add to 1."""
    study = study_with(study_dict, mapping=mapping, discrepancy="none")
    context = begin(study, fill(tmp_path / "a", 2))

    first = RECIPES["adapt"].run(context)
    second = RECIPES["adapt"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert second.weights is not None
    counted = {"mapping.frequency"} if mapping == "frequency" else set()
    assert set(first.weights) == {"prompt.values"} | counted
    for name in counted:
        # Four source classes: ball and middle, each with its background, of the student's heads.
        assert first.weights[name].shape == (2, 4)
        assert first.weights[name].sum(1) == pytest.approx(1)
    RECIPES["adapt"].evaluate(replace(context, weights=second.weights, role="held_out"))


@pytest.mark.parametrize(
    ("below", "prompt", "match"),
    [
        ("student", {"pad": 8}, "leaves nothing of the image"),
        ("student", {"probe_rounds": 3}, "does not learn"),
        ("student", {"mapping": "random", "share": False}, "exchange nothing"),
        ("dream", {"mapping": "frequency"}, "knows 0"),
    ],
)
def test_a_prompt_that_could_not_work_is_refused(
    study_dict: dict[str, Any], below: str, prompt: dict[str, Any], match: str
) -> None:
    """Before anything starts, with what to change."""
    with pytest.raises(ConfigError, match=match):
        study_with(study_dict, below, **prompt)


def test_options_of_a_prompt_that_is_not_there_are_refused(study_dict: dict[str, Any]) -> None:
    """They would silently do nothing."""
    study_with(study_dict)
    study_dict["stage"][-1]["options"]["how"] = "linear"

    with pytest.raises(ConfigError, match="learns none"):
        Study.parse(study_dict)
