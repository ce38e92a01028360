"""The study files that come with the package."""

from importlib.resources import as_file, files
from pathlib import Path

import pytest

from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import manifest_of
from stillroom.common.study import Study
from stillroom.deploy.phantom.consortium import CLASSES


def study(name: str) -> Study:
    with as_file(files("stillroom.deploy") / "studies" / f"{name}.toml") as path:
        return Study.load(Path(path))


@pytest.mark.parametrize("name", ["demo", "longer"])
def test_the_demo_speaks_the_phantoms_language(name: str) -> None:
    """Its classes are the phantom's, in the phantom's order, and every stage can start."""
    demo = study(name)

    for label, known in demo.label.items():
        assert known.classes == CLASSES[label]
    assert demo.study.held_out == ("summit",)
    for stage in demo.stage:
        if stage.exchanges:
            size = manifest_of(module_of(demo, stage)).nbytes / 2**20
            assert size < demo.study.max_update_mib


def test_longer_differs_from_the_demo_only_in_training() -> None:
    """What it reaches says something about the demo."""
    demo, longer = study("demo"), study("longer")

    assert (demo.volume, demo.label, demo.model) == (longer.volume, longer.label, longer.model)
    assert [stage.name for stage in demo.stage] == [stage.name for stage in longer.stage]


def test_the_gpu_study_has_the_papers_sizes() -> None:
    """62 M parameters in the student, 31 M in a teacher, within the limit, localiser without a head."""
    gpu = study("gpu")

    student = manifest_of(module_of(gpu, gpu.stage_named("student")))
    teacher = manifest_of(module_of(gpu, gpu.stage_named("teach-hinge")))

    assert student.nbytes / 4 == pytest.approx(62.2e6, rel=0.01)
    assert teacher.nbytes / 4 == pytest.approx(30.8e6, rel=0.01)
    assert student.nbytes / 2**20 < gpu.study.max_update_mib
    assert "head.heart" not in student.groups
    assert gpu.spacing_of(gpu.stage_named("teach-heart")) == (6.0, 6.0, 6.0)
