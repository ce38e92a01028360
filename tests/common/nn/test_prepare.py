"""What a site consents to must be complete, bounded and the same everywhere."""

from pathlib import Path
from typing import Any

import pytest

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.tensorfile import read_weights


def test_prepared_study_comes_back_with_its_digest(study: Study, tmp_path: Path) -> None:
    """study.json is canonical, names its weights, and has only stages that exchange some."""
    prepared = prepare_study(study, tmp_path)

    again = PreparedStudy.load(tmp_path)

    assert again == prepared
    assert again.digest == prepared.digest
    assert set(prepared.stages) == {"teach-blob", "teach-spots", "student"}
    expected = canonical_bytes(prepared.model_dump(mode="json"))
    assert (tmp_path / "study.json").read_bytes() == expected
    for stage in prepared.stages.values():
        weights = read_weights(tmp_path / "weights", stage.initial_sha256)
        stage.manifest.check(weights, max_norm=study.study.max_update_norm)


def test_preparing_twice_gives_the_same_study(study: Study, tmp_path: Path) -> None:
    """Anybody can repeat what the operator prepared."""
    assert (
        prepare_study(study, tmp_path / "a").digest == prepare_study(study, tmp_path / "b").digest
    )


def test_stages_start_from_different_weights(study: Study, tmp_path: Path) -> None:
    """Teachers of the same shape do not share a starting point by accident."""
    stages = prepare_study(study, tmp_path).stages.values()

    assert len({stage.initial_sha256 for stage in stages}) == 3


def test_changed_weights_are_noticed(study: Study, tmp_path: Path) -> None:
    """One flipped byte in any file is enough."""
    prepare_study(study, tmp_path)
    victim = sorted((tmp_path / "weights").iterdir())[0]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)

    with pytest.raises(TrustError) as caught:
        PreparedStudy.load(tmp_path)

    assert caught.value.code == "STR-204"


def test_missing_study_is_refused(tmp_path: Path) -> None:
    """An empty folder is not a study."""
    with pytest.raises(TrustError):
        PreparedStudy.load(tmp_path)


def test_a_student_above_the_limit_is_refused(study_dict: dict[str, Any], tmp_path: Path) -> None:
    """The message gives the size and the limit, and nothing is written."""
    study_dict["study"]["max_update_mib"] = 0.5
    study_dict["model"]["student"]["feature_size"] = 24

    with pytest.raises(ConfigError, match=r"student .* MiB, more than .* 0\.5 MiB") as caught:
        prepare_study(Study.parse(study_dict), tmp_path / "out")

    assert caught.value.code == "STR-105"
    assert not (tmp_path / "out").exists()
