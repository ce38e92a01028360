"""Stages that cannot see what they are asked to learn."""

from typing import Any

import pytest
from typer.testing import CliRunner

from stillroom.common.study import Study
from stillroom.server.study_grid import too_coarse


def study_of(*, radius_mm: float = 8.0, smallest_mm: float | None = None, **stage: Any) -> Study:
    """Points and calcium on a grid of 4.5 mm, each with a teacher of its own, and a student of both."""
    calcium: dict[str, Any] = {"kind": "mask", "classes": ["calcium"]}
    if smallest_mm is not None:
        calcium["smallest_mm"] = smallest_mm
    return Study.parse(
        {
            "study": {"name": "grids"},
            "volume": {"spacing_mm": [4.5, 4.5, 4.5], "patch": [16, 16, 16]},
            "label": {
                "calcium": calcium,
                "points": {"kind": "points", "names": ["apex"], "radius_mm": radius_mm},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {"name": "teach-calcium", "recipe": "teach", "label": "calcium", **stage},
                {"name": "teach-points", "recipe": "teach", "label": "points"},
                {"name": "student", "recipe": "distil"},
            ],
        }
    )


def test_large_structures_are_fine() -> None:
    """Balls of 16 mm on a grid of 4.5 mm; of a mask nothing is known unless the study says it."""
    assert too_coarse(study_of()) == []


def test_calcium_needs_a_finer_grid() -> None:
    """Teacher and student are both named, with the grid that would do."""
    lines = too_coarse(study_of(smallest_mm=3.0))

    assert [line.split(" learns ")[0] for line in lines] == ["stage teach-calcium", "stage student"]
    assert all("0.7 voxels across" in line and line.endswith("at most 1.5.") for line in lines)


def test_a_stage_may_have_a_finer_grid() -> None:
    """Then only the stages that stay on the study's are named."""
    lines = too_coarse(study_of(smallest_mm=3.0, spacing_mm=[1.5, 1.5, 1.5]))

    assert len(lines) == 1
    assert lines[0].startswith("stage student")


def test_small_balls_are_named_too() -> None:
    """A point's structure is its ball."""
    assert len(too_coarse(study_of(radius_mm=4.0))) == 2


def test_the_command_says_it(tmp_path: Any) -> None:
    """As a warning: the study is still a good one."""
    pytest.importorskip("torch")
    from stillroom.server.cli import app
    from stillroom.server.study_sweep import as_toml

    value = study_of(smallest_mm=3.0).model_dump(mode="json", exclude_defaults=True)
    file = tmp_path / "study.toml"
    file.write_text(as_toml(value), "utf-8")

    result = CliRunner().invoke(app, ["study", "check", str(file)])

    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert said.count("warning: stage") == 2
    assert said.endswith("ok, study grids")
