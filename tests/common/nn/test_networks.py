"""Laws of the networks and of the list of their weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stillroom.common.errors import ConfigError
from stillroom.common.nn.student import LightSwin, Student, SwinStudent, build_student
from stillroom.common.nn.teacher import Teacher, build_teacher
from stillroom.common.nn.weights import export, initial, load, manifest_of
from stillroom.common.study import Study

HEADS = {"blob": 2, "spots": 3}


def modules() -> list[nn.Module]:
    return [
        LightSwin(1, HEADS, 12),
        SwinStudent(2, HEADS, 12, group_norm=True),
        Teacher("blob", 2, in_channels=1, channels=(4, 8, 8)),
        Teacher("blob", 2, in_channels=1, channels=(4, 4, 4, 4, 4, 4)),
    ]


@pytest.mark.parametrize("number", range(4))
def test_manifest_holds_each_trained_value_once_and_no_table(number: int) -> None:
    """DynUNet's second names and SwinUNETR's index tables never reach the wire."""
    module = modules()[number]
    manifest = manifest_of(module)

    values = sum(int(np.prod(spec.shape)) for spec in manifest.tensors)

    assert values == sum(p.numel() for p in module.parameters())
    assert len({spec.name for spec in manifest.tensors}) == len(manifest.tensors)
    assert not any("index" in spec.name for spec in manifest.tensors)
    assert list(export(module)) == [spec.name for spec in manifest.tensors]


def test_groups_are_trunk_and_one_head_per_label() -> None:
    """A student's heads are averaged apart from its trunk; a teacher is one group."""
    student, _, teacher, _ = (set(manifest_of(module).groups) for module in modules())

    assert student == {"encoder", "decoder", "head.blob", "head.spots"}
    assert teacher == {"cnn"}


def test_weights_survive_a_trip() -> None:
    """What was exported and loaded elsewhere computes the same, and export shares no memory."""
    first, second = LightSwin(1, HEADS, 12), LightSwin(1, HEADS, 12)
    x = torch.randn(1, 1, 16, 16, 16)
    weights = export(first)

    load(second, weights)

    assert torch.equal(first.eval()(x)["blob"], second.eval()(x)["blob"])
    weights["heads.blob.bias"] += 1
    assert torch.equal(first(x)["blob"], second(x)["blob"])


def test_loading_other_names_is_a_mistake() -> None:
    """A renamed tensor never silently keeps the old value."""
    module = LightSwin(1, HEADS, 12)
    weights = export(module)
    weights["other"] = weights.pop("heads.blob.bias")

    with pytest.raises(ValueError, match="names"):
        load(module, weights)


def test_initial_weights_depend_on_the_seed_alone(study: Study) -> None:
    """The caller's generator neither matters nor moves."""
    torch.manual_seed(1)
    first = export(initial(lambda: build_student(study), 5))
    after = torch.rand(1)
    second = export(initial(lambda: build_student(study), 5))
    torch.manual_seed(1)

    assert torch.equal(after, torch.rand(1))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [LightSwin, SwinStudent])
def test_students_answer_for_every_label(kind: type[Student], channels: int) -> None:
    """Logits have the input's grid and one channel per class and background."""
    side = 16 if kind is LightSwin else 32
    extra = {} if kind is LightSwin else {"group_norm": True}
    student = kind(channels, HEADS, 12, **extra).eval()
    x = torch.randn(1, channels, side, side, side)

    with torch.no_grad():
        logits, features = student(x), student.features(x)

    assert {label: out.shape[1:] for label, out in logits.items()} == {
        label: (n, side, side, side) for label, n in HEADS.items()
    }
    assert features.encoder.shape[2] == side // 4
    assert features.decoder.shape[2] == side


def test_teacher_of_the_papers_depth_gives_three_scales_in_training() -> None:
    """Deep supervision is for training only."""
    teacher = Teacher("blob", 2, in_channels=1, channels=(4,) * 6)
    x = torch.randn(1, 1, 64, 64, 64)

    assert teacher.train()(x)["blob"].shape == (1, 3, 2, 64, 64, 64)
    with torch.no_grad():
        assert teacher.eval()(x)["blob"].shape == (1, 2, 64, 64, 64)


@pytest.mark.parametrize(
    ("arch", "patch"),
    [
        ("light-swin", [20, 16, 16]),
        ("light-swin", [8, 16, 16]),
        ("swin-unetr", [48, 32, 32]),
        ("swin-unetr", [16, 32, 32]),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(
    study_dict: dict[str, Any], arch: str, patch: list[int]
) -> None:
    """The data scientist learns the sizes that do."""
    study_dict["volume"]["patch"] = patch
    study_dict["model"]["student"]["arch"] = arch

    with pytest.raises(ConfigError, match="multiples of") as caught:
        build_student(Study.parse(study_dict))

    assert caught.value.code == "STR-106"


def test_a_teacher_too_deep_for_its_patch_is_refused(study_dict: dict[str, Any]) -> None:
    """Five halvings of 16 voxels leave nothing to normalise."""
    study_dict["model"]["teacher"]["channels"] = [4, 4, 4, 4, 4]

    with pytest.raises(ConfigError) as caught:
        build_teacher(Study.parse(study_dict), "blob")

    assert caught.value.code == "STR-106"


def test_a_feature_size_heads_do_not_divide_is_refused(study_dict: dict[str, Any]) -> None:
    """Attention heads share the width evenly."""
    study_dict["model"]["student"]["feature_size"] = 20

    with pytest.raises(ConfigError, match="multiple of 12"):
        build_student(Study.parse(study_dict))
