"""A sweep is as many studies as values, each different in one option."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from stillroom.common.errors import ConfigError
from stillroom.common.study import Study
from stillroom.server.study_sweep import as_toml, sweep, values_of


@pytest.fixture
def raw() -> dict[str, Any]:
    """A study with a denoiser and an adapter on it."""
    return {
        "study": {"name": "curve", "seed": 5, "quorum": {"min_sites": 2}},
        "volume": {"spacing_mm": [4.0, 4.0, 4.0], "patch": [16, 16, 1]},
        "label": {"blob": {"kind": "mask", "classes": ["ball"]}},
        "model": {"denoiser": {"arch": "diffusion-unet", "channels": [8, 16]}},
        "stage": [
            {"name": "dream", "recipe": "pretrain_diffusion"},
            {
                "name": "onto",
                "recipe": "adapt",
                "label": "blob",
                "backbone": "dream",
                "options": {"slices": 4},
            },
        ],
    }


def test_one_file_per_value(raw: dict[str, Any], tmp_path: Path) -> None:
    """Every file is a study that passes its check and differs in name and option alone."""
    file = tmp_path / "curve.toml"
    file.write_text(as_toml(raw), "utf-8")
    assert tomllib.loads(file.read_text("utf-8")) == raw

    made = sweep(file, stage="onto", option="timestep", values=[0, 250], out=tmp_path / "out")

    assert [path.name for path in made] == ["curve-timestep-0.toml", "curve-timestep-250.toml"]
    for path, value in zip(made, (0, 250), strict=True):
        study = Study.load(path)
        assert study.stage_named("onto").options["timestep"] == value
        back = study.model_dump(mode="json")
        back["study"]["name"], back["stage"][1]["options"]["timestep"] = "curve", 0
        assert back == Study.parse(raw).model_dump(mode="json")


def test_a_value_that_is_refused_writes_nothing(raw: dict[str, Any], tmp_path: Path) -> None:
    """A bad value, an unknown stage or option, and a file that is there already."""
    file = tmp_path / "curve.toml"
    file.write_text(as_toml(raw), "utf-8")
    out = tmp_path / "out"
    for stage, option, values, code in (
        ("onto", "timestep", [0, 1000], "STR-102"),
        ("onto", "colour", [1], "STR-102"),
        ("nowhere", "timestep", [1], "STR-103"),
    ):
        with pytest.raises(ConfigError) as caught:
            sweep(file, stage=stage, option=option, values=values, out=out)
        assert caught.value.code == code
        assert not out.exists()
    sweep(file, stage="onto", option="timestep", values=[50], out=out)
    with pytest.raises(ConfigError) as again:
        sweep(file, stage="onto", option="timestep", values=[25, 50], out=out)
    assert again.value.code == "STR-107"
    assert len(list(out.iterdir())) == 1


def test_values_are_read_as_toml_reads_them() -> None:
    """Numbers, truth values and bare words."""
    assert values_of("0, 25,0.5,true,linear") == [0, 25, 0.5, True, "linear"]
