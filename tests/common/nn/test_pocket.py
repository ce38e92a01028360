"""Laws of the networks for slices."""

from typing import Any

import numpy as np
import pytest
import torch

from stillroom.common.errors import ConfigError
from stillroom.common.nn.pocket import PocketUnet, SliceTeacher
from stillroom.common.nn.student import LightSwin, SwinStudent, build_student
from stillroom.common.nn.teacher import Teacher, build_teacher
from stillroom.common.nn.weights import manifest_of
from stillroom.common.study import Study


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("channels", "known"), [((16, 32, 64), 57_297), ((32, 64, 128), 227_233)])
def test_the_students_have_the_papers_number_of_parameters(
    channels: tuple[int, ...], known: int
) -> None:
    """S1 and S2 with colour input and one output, as published."""
    assert parameters(PocketUnet(3, {"spleen": 1}, channels)) == known


def test_the_teacher_has_the_papers_number_of_parameters() -> None:
    """T1 with colour input, one output and a second decoder for three channels: 43.24 million."""
    with torch.device("meta"):
        teacher = SliceTeacher(
            "spleen", 1, in_channels=3, channels=(64, 128, 256, 512, 1024), restores=3
        )

    assert round(parameters(teacher) / 1e6, 2) == 43.24


def test_a_stack_is_seen_slice_by_slice() -> None:
    """What lies in one slice never reaches another, in training and after."""
    student = PocketUnet(1, {"a": 2}, (4, 8, 8))
    x = torch.randn(2, 1, 3, 16, 24)
    other = x.clone()
    other[:, :, 1] += 1

    first, second = student(x)["a"], student(other)["a"]

    assert first.shape == (2, 2, 3, 16, 24)
    assert torch.equal(first[:, :, [0, 2]], second[:, :, [0, 2]])
    assert not torch.equal(first[:, :, 1], second[:, :, 1])


@pytest.mark.parametrize("number", range(5))
def test_maps_have_the_widths_that_are_told(number: int) -> None:
    """Stride 4 in the encoder, full resolution in the decoder; logits come from the same maps."""
    network: Any = (
        PocketUnet(1, {"a": 2}, (4, 8, 12)),
        SliceTeacher("a", 2, in_channels=1, channels=(4, 8, 12, 16)),
        Teacher("a", 2, in_channels=1, channels=(4, 6, 8, 12)),
        LightSwin(1, {"a": 2}, 12),
        SwinStudent(1, {"a": 2}, 12, group_norm=True),
    )[number]
    network.eval()
    side = 32 if isinstance(network, SwinStudent) else 16
    x = torch.randn(1, 1, side, side, side)

    with torch.no_grad():
        features = network.features(x)
        logits = network.logits(features)

        for scale, width in network.widths.items():
            assert getattr(features, scale).shape[1] == width
        assert features.encoder.shape[-2:] == (side // 4, side // 4)
        assert features.decoder.shape[2:] == x.shape[2:]
        assert torch.equal(logits["a"], network(x)["a"])


@pytest.mark.parametrize("channels", [(4, 8, 8), (4, 4, 4, 4, 4, 4)])
def test_reconstruction_changes_no_logit(channels: tuple[int, ...]) -> None:
    """Scales of deep supervision included; the head is a group of its own."""
    side = 64 if len(channels) == 6 else 16
    teacher = Teacher("a", 2, in_channels=2, channels=channels, restores=1)
    teacher.cnn.apply(lambda one: setattr(one, "p", 0.0) if hasattr(one, "p") else None)
    x = torch.randn(1, 2, side, side, side)

    with torch.no_grad():
        logits, again = teacher.restored(x)

        assert torch.equal(logits["a"], teacher(x)["a"])
    assert again.shape == (1, 1, side, side, side)
    assert set(manifest_of(teacher).groups) == {"cnn", "reconstruction"}


def test_a_slice_teacher_restores_from_the_shared_encoder() -> None:
    """Its second decoder has the encoder's gradient, and not the first decoder's."""
    teacher = SliceTeacher("a", 2, in_channels=1, channels=(4, 4, 4), restores=1)

    _, again = teacher.restored(torch.randn(1, 1, 1, 16, 16))
    again.sum().backward()

    reached = {n.split(".")[0] for n, p in teacher.cnn.named_parameters() if p.grad is not None}
    assert reached == {"encoder"}
    with pytest.raises(ValueError, match="without"):
        SliceTeacher("a", 2, in_channels=1, channels=(4, 4, 4)).restored(
            torch.zeros(1, 1, 1, 16, 16)
        )


def test_a_study_of_slices_builds_both(study_dict: dict[str, Any]) -> None:
    """One voxel along z is enough; sides along x and y must halve."""
    study_dict["volume"]["patch"] = [32, 16, 1]
    study_dict["model"] = {
        "teacher": {"arch": "slice-unet", "channels": [4, 8, 8, 8]},
        "student": {"arch": "pocket-unet", "channels": [4, 8, 8]},
    }
    study = Study.parse(study_dict)

    assert set(manifest_of(build_student(study)).groups) == {
        "encoder",
        "decoder",
        "head.blob",
        "head.spots",
    }
    assert set(manifest_of(build_teacher(study, "blob")).groups) == {"cnn"}

    study_dict["volume"]["patch"] = [20, 18, 1]
    for build in (build_student, lambda one: build_teacher(one, "blob")):
        with pytest.raises(ConfigError, match="along x and y") as caught:
            build(Study.parse(study_dict))
        assert caught.value.code == "STR-106"


@pytest.mark.parametrize("model", ["teacher", "student"])
def test_an_architecture_of_the_other_is_refused(study_dict: dict[str, Any], model: str) -> None:
    """A teacher cannot be pocket-sized by mistake, nor a student a teacher's U-Net."""
    arch = "pocket-unet" if model == "teacher" else "slice-unet"
    study_dict["model"][model] = {"arch": arch, "channels": [4, 8, 8]}
    study = Study.parse(study_dict)

    with pytest.raises(ConfigError) as caught:
        build_student(study) if model == "student" else build_teacher(study, "blob")

    assert caught.value.code == "STR-102"


def test_two_channels_are_too_few(study_dict: dict[str, Any]) -> None:
    """There is no map at stride 4 to learn from."""
    study_dict["model"]["student"] = {"arch": "pocket-unet", "channels": [4, 8]}

    with pytest.raises(ConfigError, match="three channels"):
        Study.parse(study_dict)


def test_manifest_holds_every_parameter_once() -> None:
    """Nothing of a batch is remembered: there is no running mean to average."""
    student = PocketUnet(1, {"a": 2}, (4, 8, 8))

    values = sum(int(np.prod(spec.shape)) for spec in manifest_of(student).tensors)

    assert values == parameters(student)
