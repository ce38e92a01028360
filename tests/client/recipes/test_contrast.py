"""Laws of learning from a teacher's maps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.contrast import SCALES, Contrast
from stillroom.client.recipes.registry import RECIPES
from stillroom.client.training.contrast import at_one_size, info_nce, on_cells, soft_maps
from stillroom.common.errors import ConfigError
from stillroom.common.metrics import check_metrics
from stillroom.common.nn.pocket import PocketUnet, SliceTeacher
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.recipes.contrast import TERMS, DistilOptions, TermWeights
from stillroom.common.study import Study

Fill = Callable[..., CaseStore]
Order = Callable[..., RecipeContext]


def test_each_query_finds_its_orthogonal_key() -> None:
    """Four unit vectors at right angles: -log(e^(1/tau) / (e^(1/tau) + 3)); strangers cost log 4."""
    eye, tau = torch.eye(4), 0.5
    own = math.exp(1 / tau)

    assert info_nce(eye, eye, tau=tau).item() == pytest.approx(-math.log(own / (own + 3)))
    apart = info_nce(torch.eye(8)[:4], torch.eye(8)[4:], tau=tau)
    assert apart.item() == pytest.approx(math.log(4))


def test_equal_keys_tell_nothing_apart() -> None:
    """Identical images cost log N whatever the temperature; one image alone costs nothing."""
    same = torch.ones(5, 3, 2)

    assert info_nce(same, same, tau=0.1).item() == pytest.approx(math.log(5))
    assert info_nce(same[:1], same[:1], tau=0.1).item() == 0.0


def test_the_scale_of_a_map_does_not_matter() -> None:
    """Maps are compared by direction; each image may have its own scale."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 4, 5, generator=generator)
    q, k = q.flatten(1), k.flatten(1)
    scale = torch.tensor([[0.01], [1.0], [300.0]])

    assert info_nce(q * scale, 7 * k, tau=0.4).item() == pytest.approx(
        info_nce(q, k, tau=0.4).item(), rel=1e-5
    )


def test_the_contrast_goes_one_way() -> None:
    """Negatives are the teacher's maps of other images, not the student's."""
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    k = torch.eye(2)

    assert info_nce(q, k, tau=1.0).item() != pytest.approx(info_nce(k, q, tau=1.0).item())


def test_softened_maps_of_one_channel_are_refused() -> None:
    """The published code's divergence over one channel is 0 for any two outputs; here it cannot be asked."""
    one = torch.randn(1, 1, 2, 2, 2)

    assert torch.equal(one.softmax(1), torch.ones_like(one))
    with pytest.raises(ValueError, match="two channels"):
        soft_maps(one, one + 3, temperature=4.0)


def test_softened_maps_have_the_known_divergence() -> None:
    """At T = 1 the divergence itself; zero for logits that differ by a constant; times T squared."""
    teacher = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1, 1)
    student = torch.tensor([0.5, 0.5]).log().view(1, 2, 1, 1, 1)
    known = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)

    assert soft_maps(student, teacher, temperature=1.0).item() == pytest.approx(known)
    assert soft_maps(teacher + 5, teacher, temperature=4.0).item() == pytest.approx(0, abs=1e-5)
    assert soft_maps(4 * student, 4 * teacher, temperature=4.0).item() == pytest.approx(16 * known)


def test_there_are_never_more_cells_than_voxels() -> None:
    """A repeated cell would be its own negative; a slice stays one cell deep."""
    ours, theirs = on_cells(torch.zeros(2, 3, 1, 8, 8), torch.zeros(2, 5, 1, 3, 16), 4)

    assert ours.shape == (2, 3, 1, 3, 4)
    assert theirs.shape == (2, 5, 1, 3, 4)
    assert at_one_size(torch.zeros(1, 1, 2, 4, 4), torch.ones(1, 1, 2, 2, 2))[1].shape[2:] == (
        2,
        4,
        4,
    )


def learning(**options: Any) -> tuple[PocketUnet, SliceTeacher, Contrast]:
    torch.manual_seed(0)
    student = PocketUnet(1, {"ball": 2}, (4, 6, 8))
    teacher = SliceTeacher("ball", 2, in_channels=1, channels=(6, 8, 10, 12)).eval()
    return student, teacher, Contrast(student, {"one": teacher}, DistilOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("negatives", ["cells", "images"])
@pytest.mark.parametrize("term", TERMS)
def test_gradients_reach_student_and_projections_alone(term: str, negatives: str) -> None:
    """The teacher learns nothing, not even when nobody froze it; each term has its own projection."""
    weights = TermWeights(**dict.fromkeys(TERMS, 1.0))
    student, teacher, contrast = learning(weights=weights, negatives=negatives)
    x = torch.randn(3, 1, 1, 16, 16)
    features = student.features(x)

    contrast.terms(x, features, student.logits(features))[term].backward()

    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.encoder.parameters())
    reached = {n.split(".")[2] for n, p in contrast.named_parameters() if p.grad is not None}
    assert reached == ({term} if term in SCALES else set())


def test_what_is_private_is_projections() -> None:
    """No weight of a teacher is remembered as a site's own; a term of weight 0 has no projection."""
    _, _, contrast = learning(weights=TermWeights(encoder=0))

    names = {name.rpartition(".")[0] for name in export(contrast)}

    assert names == {"projections.of-one.bottleneck", "projections.of-one.decoder"}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_of_any_size_teaches(batch: int) -> None:
    """The last batch may be partial and hold one image: its cells still tell each other apart."""
    student, _, contrast = learning()
    x = torch.randn(batch, 1, 1, 16, 16)
    features = student.features(x)

    losses = contrast.terms(x, features, student.logits(features))

    assert set(losses) == set(TERMS)
    assert all(loss.item() > 0 for loss in losses.values())


def test_terms_are_averages_over_teachers() -> None:
    """The same teacher twice costs as much as once; one of another label adds no softened map."""
    student, teacher, contrast = learning()
    other = SliceTeacher("liver", 2, in_channels=1, channels=(6, 8, 10, 12)).eval()
    x = torch.randn(2, 1, 1, 16, 16)
    features = student.features(x)
    outputs = student.logits(features)
    many = Contrast(student, {"one": teacher, "too": teacher, "far": other}, DistilOptions())  # type: ignore[arg-type,dict-item]

    once, thrice = contrast.terms(x, features, outputs), many.terms(x, features, outputs)

    assert thrice["maps"].item() == pytest.approx(once["maps"].item())


@pytest.fixture
def taught(study_dict: dict[str, Any]) -> Study:
    """The toy's student, taught by both teachers."""
    study_dict["stage"][3]["teachers"] = ["teach-ball", "teach-centre"]
    return Study.parse(study_dict)


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


def left(study: Study) -> dict[str, Any]:
    stages = [study.stage_named(name) for name in ("teach-ball", "teach-centre")]
    return {s.name: (export(initial(lambda s=s: module_of(study, s), 2)), "0" * 64) for s in stages}


def test_two_rounds_of_distilling_from_teachers(
    taught: Study, fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Equal seeds give equal bytes; projections learn, stay, and go on where they were."""
    store = fill(tmp_path / "a", 2, 1)
    models, memory = left(taught), Kept()
    context = order(taught, "student", store, teachers=models, memory=memory)

    first = RECIPES["distil"].run(context)
    again = RECIPES["distil"].run(replace(context, memory=Kept()))
    second = Kept(memory.saved)
    later = replace(context, round=2, weights=first.weights, memory=second)
    result = RECIPES["distil"].run(later)

    check_metrics(result.metrics, taught)
    assert {f"train.{term}.loss" for term in TERMS} <= result.metrics.keys()
    assert first.weights is not None
    assert again.weights is not None
    assert {n: v.tobytes() for n, v in first.weights.items()} == {
        n: v.tobytes() for n, v in again.weights.items()
    }
    manifest_of(module_of(taught, context.stage)).check(first.weights, max_norm=1e6)
    assert all(name.startswith("private.projections.of-teach-") for name in memory.saved)
    assert len(memory.saved) == 2 * 2 * len(SCALES)
    for name, kept in memory.saved.items():
        assert not np.array_equal(kept, second.saved[name])
    # Softened maps reach every head from every scan; the label itself is only in some.
    assert set(first.samples.values()) == {first.samples["encoder"]}
    for name, (weights, _) in left(taught).items():
        assert all(np.array_equal(weights[n], models[name][0][n]) for n in weights)


def test_scans_without_a_label_teach_only_when_asked(
    study_dict: dict[str, Any], fill: Fill, order: Order, tmp_path: Path
) -> None:
    """A site that drew nothing can take part through its teachers."""
    store = fill(tmp_path / "a", 0, 2)
    found = []
    for unlabelled in (True, False):
        study_dict["stage"][3] |= {
            "teachers": ["teach-ball"],
            "options": {"unlabelled": unlabelled},
        }
        study = Study.parse(study_dict)
        context = order(study, "student", store, teachers=left(study))
        recipe: Any = RECIPES["distil"]
        found.append(recipe.cases(context, [store.info(one) for one in store.ids()]))
        if unlabelled:
            result = RECIPES["distil"].run(context)
            assert "train.ball.loss" not in result.metrics
            assert result.samples["head.ball"] == 2
            assert result.samples["head.centre"] == 0

    assert found == [["case00", "case01"], []]


def test_a_teacher_restores_scans_that_nobody_labelled(
    study_dict: dict[str, Any], fill: Fill, order: Order, tmp_path: Path
) -> None:
    """Two rounds, repeatable; unlabelled scans put a gradient into both groups, and into no label."""
    study_dict["stage"][0]["options"] = {"reconstruction": 0.2}
    study = Study.parse(study_dict)
    store = fill(tmp_path / "a", 2, 2)
    weights = export(initial(lambda: module_of(study, study.stage_named("teach-ball")), 1))
    context = order(study, "teach-ball", store, weights=weights)

    first = RECIPES["teach"].run(context)
    again = RECIPES["teach"].run(context)
    second = RECIPES["teach"].run(replace(context, round=2, weights=first.weights))

    assert first.weights is not None
    assert again.weights is not None
    assert all(first.weights[n].tobytes() == again.weights[n].tobytes() for n in weights)
    assert first.samples["cnn"] == first.samples["reconstruction"] > 2
    check_metrics(second.metrics, study)
    losses = [one.metrics["train.reconstruction.loss"] for one in (first, second)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("stage", "match"),
    [
        ({"options": {"tau": 0.1}}, "no teachers"),
        ({"options": {"weights": dict.fromkeys(TERMS, 0)}, "teachers": ["teach-ball"]}, "weight 0"),
        (
            {
                "options": {"negatives": "images"},
                "teachers": ["teach-ball"],
                "train": {"batch_size": 1},
            },
            "teaches nothing",
        ),
        ({"teachers": ["teach-ball"], "spacing_mm": [4, 4, 4]}, "another grid"),
        ({"teachers": ["label"]}, "leaves no teacher"),
    ],
)
def test_a_stage_that_could_not_learn_is_refused(
    study_dict: dict[str, Any], stage: dict[str, Any], match: str
) -> None:
    """Before anything starts, with what to change."""
    study_dict["stage"][3] |= stage

    with pytest.raises(ConfigError, match=match):
        Study.parse(study_dict)


def test_a_label_named_like_a_term_is_refused(study_dict: dict[str, Any]) -> None:
    """Two losses under one name would be one."""
    study_dict["label"]["maps"] = study_dict["label"]["ball"]
    study_dict["stage"][3]["teachers"] = ["teach-ball"]

    with pytest.raises(ConfigError, match="name of a term"):
        Study.parse(study_dict)
