"""The study file: what is wrong is said by key, with a code, before anything runs."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stillroom.common.canonical import digest
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights

GOOD: dict[str, Any] = {
    "study": {"name": "tavi-2026", "held_out": ["summit"]},
    "volume": {"spacing_mm": [1.5, 1.5, 1.5], "patch": [96, 96, 96]},
    "label": {
        "vessels": {"kind": "mask", "classes": ["AO", "PA"]},
        "heart": {"kind": "mask", "classes": ["heart"]},
        "hinge": {"kind": "points", "names": ["NCC", "RCC", "LCC"]},
    },
    "model": {
        "teacher": {"arch": "dynunet", "channels": [8, 16]},
        "student": {"arch": "light-swin", "feature_size": 24},
    },
    "stage": [
        {"name": "find", "recipe": "teach", "label": "heart", "spacing_mm": [6, 6, 6]},
        {"name": "locate", "recipe": "localise", "teachers": ["find"]},
        {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 3},
        {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
        {"name": "student", "recipe": "distil", "rounds": 2},
    ],
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    value = copy.deepcopy(GOOD)
    change(value)
    return value


def refused(value: dict[str, Any], code: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Study.parse(value)
    assert caught.value.code == code
    assert caught.value.fix
    return caught.value


def test_good_study() -> None:
    """The shape of a study file, and what follows from it."""
    study = Study.parse(GOOD)

    assert study.stage_named("teach").rounds == 3
    assert study.spacing_of(study.stage_named("find")) == (6, 6, 6)
    assert study.spacing_of(study.stage_named("student")) == (1.5, 1.5, 1.5)
    assert list(study.student_labels()) == ["vessels", "hinge"]  # `heart` only locates
    assert study.input_channels == 1
    with pytest.raises(KeyError):
        study.stage_named("nobody")


BAD_KEYS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda s: s["study"].update(quorun=1), "study.quorun"),
    "unknown section": (lambda s: s.update(stages=[]), "stages"),
    "unknown stage key": (lambda s: s["stage"][0].update(round=3), "stage.0.round"),
    "unknown recipe": (lambda s: s["stage"][4].update(recipe="magic"), "stage.4.recipe"),
    "unknown kind": (lambda s: s["label"]["heart"].update(kind="text"), "label.heart"),
    "unknown model": (lambda s: s["model"].update(critic={}), "model.critic"),
    "missing section": (lambda s: s.pop("volume"), "volume"),
    "missing key": (lambda s: s["volume"].pop("patch"), "volume.patch"),
    "no stage": (lambda s: s.update(stage=[]), "stage"),
    "no class": (lambda s: s["label"]["vessels"].update(classes=[]), "label.vessels"),
    "zero rounds": (lambda s: s["stage"][0].update(rounds=0), "stage.0.rounds"),
    "negative spacing": (lambda s: s["volume"].update(spacing_mm=[1, -1, 1]), "volume.spacing_mm"),
    "flat patch": (lambda s: s["volume"].update(patch=[96, 96]), "volume.patch"),
    "window upside down": (lambda s: s["volume"].update(hu_window=[700, -300]), "hu_window"),
    "name with a path": (lambda s: s["stage"][0].update(name="../up"), "stage.0.name"),
    "label with a dot": (lambda s: s["label"].update({"a.b": s["label"]["heart"]}), "label"),
    "study name": (lambda s: s["study"].update(name="Tavi 2026"), "study.name"),
    "model size of the other arch": (
        lambda s: s["model"]["student"].update(channels=[1]),
        "light-swin needs feature_size",
    ),
    "model without size": (lambda s: s["model"]["teacher"].pop("channels"), "needs channels"),
    "fraction of one": (
        lambda s: s["study"].update(validation_fraction=1.0),
        "validation_fraction",
    ),
    "encoding of a stage without weights": (
        lambda s: s["stage"][3].update(exchange={"encoding": "int8-delta"}),
        "stage.3: Value error, exchange: a pseudolabel stage exchanges no weights",
    ),
    "aggregation of a stage without weights": (
        lambda s: s["stage"][1].update(aggregation={"server": "fedadam"}),
        "stage.1: Value error, aggregation: a localise stage exchanges no weights",
    ),
    "privacy of a stage without weights": (
        lambda s: s["stage"][3].update(privacy={"clip_norm": 1, "noise_multiplier": 1}),
        "stage.3: Value error, privacy: a pseudolabel stage exchanges no weights",
    ),
    "privacy and a median": (
        lambda s: s["stage"][4].update(
            privacy={"clip_norm": 1, "noise_multiplier": 1}, aggregation={"method": "median"}
        ),
        "privacy: needs aggregation.method mean",
    ),
    "no noise": (
        lambda s: s["stage"][4].update(privacy={"clip_norm": 1, "noise_multiplier": 0}),
        "stage.4.privacy.noise_multiplier",
    ),
    "endless pull": (
        lambda s: s["stage"][4].update(train={"proximal": float("inf")}),
        "stage.4.train.proximal",
    ),
    "median of one": (
        lambda s: s["stage"][4].update(aggregation={"method": "median"}),
        "needs 3 updates to protect from one, and the quorum is 1",
    ),
    "nothing to trim": (
        lambda s: s["stage"][4].update(aggregation={"method": "trimmed-mean", "trim": 0.2}),
        "trimmed-mean, which needs 3 updates",
    ),
    "no cohort": (lambda s: s["study"].update(min_cohort=0), "min_cohort"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_bad_key_is_named(name: str) -> None:
    """STR-102 with the dotted name of the key."""
    change, where = BAD_KEYS[name]

    assert where in refused(changed(change), "STR-102").what


@pytest.mark.parametrize(("method", "fewest"), [("mean", 1), ("median", 3), ("trimmed-mean", 3)])
def test_robust_rules_need_enough_sites(method: str, fewest: int) -> None:
    """The quorum is large enough for at least one update to be dropped on each side."""

    def change(study: dict[str, Any]) -> None:
        study["stage"][4]["aggregation"] = {"method": method}
        study["study"]["quorum"] = {"min_sites": fewest}

    assert Study.parse(changed(change)).stage[4].aggregation.fewest_sites == fewest


def test_privacy_goes_with_every_encoding() -> None:
    """Rounding what is already noised reveals nothing more."""
    for encoding in ("fp32", "bf16-delta", "int8-delta"):
        options = {
            "privacy": {"clip_norm": 1, "noise_multiplier": 2},
            "exchange": {"encoding": encoding},
        }
        Study.parse(changed(lambda s, options=options: s["stage"][4].update(options)))


def private(epsilon: tuple[float, ...] | None) -> dict[str, Any]:
    """A prepared study whose student has two noised rounds, for which ``epsilon`` is claimed."""
    value = changed(lambda s: s["stage"][4].update(privacy={"clip_norm": 1, "noise_multiplier": 2}))
    spec = TensorSpec(name="w", shape=(2,), dtype="float32", group="g")
    stage = PreparedStage(
        initial_sha256="0" * 64, manifest=Manifest(tensors=(spec,)), epsilon=epsilon
    )
    return {"study": Study.parse(value), "stages": {"student": stage}}


def test_weights_of_a_stage_that_is_not_there() -> None:
    """Refused when it is read: a name nobody knows ends in no crash."""
    given = private((4.7286, 7.0774))
    with pytest.raises(ValueError, match="does not have"):
        PreparedStudy(**{**given, "stages": {"stranger": given["stages"]["student"]}})


def test_epsilon_is_part_of_what_is_signed() -> None:
    """The right numbers are kept; absent, too few or understated ones make no study."""
    assert PreparedStudy(**private((4.7286, 7.0774))).stages["student"].epsilon == (4.7286, 7.0774)
    for wrong in (None, (4.7286,), (4.7286, 4.7286), (0.1, 0.2)):
        with pytest.raises(ValidationError):
            PreparedStudy(**private(wrong))
    with pytest.raises(ValidationError):
        PreparedStudy(**private((4.7286, 7.0774)) | {"study": Study.parse(GOOD)})


def test_values_are_not_repeated() -> None:
    """A message names keys; a value may be a secret that was pasted into the wrong line."""
    error = refused(changed(lambda s: s["study"].update(seed="hunter2")), "STR-102")

    assert "study.seed" in error.what
    assert "hunter2" not in str(error)


BAD_REFERENCES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "duplicated stage": (lambda s: s["stage"][2].update(name="find"), "find is defined twice"),
    "label nobody defines": (lambda s: s["stage"][2].update(label="valves"), "label valves"),
    "teach without label": (lambda s: s["stage"][2].pop("label"), "label None"),
    "missing teacher": (lambda s: s["stage"][3].update(teachers=["ghost"]), "teacher ghost"),
    "later teacher": (lambda s: s["stage"].insert(0, s["stage"].pop(3)), "teacher teach"),
    "teacher that teaches nothing": (
        lambda s: s["stage"][3].update(teachers=["locate"]),
        "teacher locate",
    ),
    "no teachers": (lambda s: s["stage"][3].pop("teachers"), "has no teachers"),
    "no student": (lambda s: s["model"].pop("student"), "needs [model.student]"),
    "no teacher model": (lambda s: s["model"].pop("teacher"), "needs [model.teacher]"),
    "weight of nothing": (
        lambda s: s["stage"][4].update(label_weights={"valves": 2.0}),
        "weighs label valves",
    ),
    "condition on nothing": (lambda s: s["volume"].update(condition_on="valves"), "valves"),
    "condition on points": (lambda s: s["volume"].update(condition_on="hinge"), "hinge"),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
def test_bad_reference_is_named(name: str) -> None:
    """STR-103 with the stage and what it refers to."""
    change, where = BAD_REFERENCES[name]

    assert where in refused(changed(change), "STR-103").what


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "STR-101"), (b"\xff\xfe", "STR-101"), (b"[study\n", "STR-102"), (b"", "STR-102")],
)
def test_files_that_are_no_study(tmp_path: Path, content: bytes | None, code: str) -> None:
    """Absent, binary, broken TOML, empty: each says so."""
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        Study.load(path)

    assert caught.value.code == code


@pytest.fixture
def prepared_dir(tmp_path: Path) -> Path:
    """A prepared study with one stage that exchanges one tensor."""
    weights = {"w": np.ones(2, np.float32)}
    manifest = Manifest(tensors=(TensorSpec(name="w", shape=(2,), dtype="float32", group="g"),))
    initial = write_weights(tmp_path / "weights", weights)
    stage = PreparedStage(initial_sha256=initial, manifest=manifest)
    prepared = PreparedStudy(study=Study.parse(GOOD), stages={"teach": stage})
    (tmp_path / "study.json").write_text(prepared.model_dump_json(), "utf-8")
    return tmp_path


def test_a_key_of_a_later_release_changes_no_name(prepared_dir: Path) -> None:
    """A study that was prepared before there was a key is the same study; one that has it is not."""
    path = prepared_dir / "study.json"
    written = json.loads(path.read_bytes())
    earlier = copy.deepcopy(written)
    del earlier["study"]["study"]["retain_updates"]
    path.write_text(json.dumps(earlier, indent=3), "utf-8")

    found = PreparedStudy.load(prepared_dir)
    assert found.study.study.retain_updates == "none"
    assert found.digest == digest(earlier) != digest(written)
    assert found.model_copy().digest == digest(written), "a copy is a study of this release"


def test_a_key_that_this_release_does_not_know_is_refused(prepared_dir: Path) -> None:
    """What was signed is never ignored."""
    path = prepared_dir / "study.json"
    written = json.loads(path.read_bytes())
    written["study"]["study"]["later"] = 1
    path.write_text(json.dumps(written), "utf-8")

    with pytest.raises(TrustError) as caught:
        PreparedStudy.load(prepared_dir)
    assert caught.value.code == "STR-204"


def test_prepared_study_keeps_its_digest(prepared_dir: Path) -> None:
    """Written, read, written: the name every message carries stays the same."""
    first = PreparedStudy.load(prepared_dir)
    (prepared_dir / "study.json").write_text(first.model_dump_json(indent=3), "utf-8")

    assert PreparedStudy.load(prepared_dir).digest == first.digest
    other = first.study.model_copy(
        update={"study": first.study.study.model_copy(update={"seed": 1})}
    )
    assert first.model_copy(update={"study": other}).digest != first.digest
    assert first == PreparedStudy.load(prepared_dir), "a digest that was asked for is no difference"


@pytest.mark.parametrize("damage", ["missing weights", "other weights", "bad json", "no json"])
def test_damaged_prepared_study(prepared_dir: Path, damage: str) -> None:
    """A site or server never starts from weights that nobody agreed to."""
    (weights,) = (prepared_dir / "weights").iterdir()
    if damage == "missing weights":
        weights.unlink()
    elif damage == "other weights":
        weights.write_bytes(weights.read_bytes() + b"\0")
    elif damage == "bad json":
        (prepared_dir / "study.json").write_text('{"study": 1}')
    else:
        (prepared_dir / "study.json").unlink()

    with pytest.raises(TrustError) as caught:
        PreparedStudy.load(prepared_dir)

    assert caught.value.code == "STR-204"
