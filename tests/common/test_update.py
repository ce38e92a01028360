"""One check for both sides: what answers a kind of task, and what a task may be."""

import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.errors import StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    ROUND,
    STAGE,
    Delta,
    ModelRef,
    Reply,
    Task,
    UpdateRef,
)
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import header, serialise, views
from stillroom.common.update import check_reply, check_task, check_update_file, file_size

WEIGHTS = {"a.weight": np.ones((3, 2), np.float32)}
MANIFEST = Manifest(
    tensors=(TensorSpec(name="a.weight", shape=(3, 2), dtype="float32", group="a"),)
)


def prepared() -> PreparedStudy:
    model = {"arch": "dynunet", "channels": [4, 8]}
    study = Study.parse(
        {
            "study": {"name": "checks", "min_cohort": 3},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["vessel"]}},
            "model": {"teacher": model, "student": model},
            "stage": [
                {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 2},
                {"name": "apply", "recipe": "pseudolabel", "teachers": ["teach"]},
                {"name": "student", "recipe": "distil", "exchange": {"encoding": "int8-delta"}},
            ],
        }
    )
    stage = PreparedStage(initial_sha256="0" * 64, manifest=MANIFEST)
    return PreparedStudy(study=study, stages={"teach": stage, "student": stage})


STUDY = prepared()
FILE = serialise(WEIGHTS)
MODEL = ModelRef(hashlib.sha256(FILE).hexdigest(), len(FILE))
CHANGED = replace(MODEL, delta=Delta("1" * 64, "2" * 64, 20))
UPDATE = UpdateRef("fp32", "1" * 64, MODEL.sha256, len(FILE))
GOOD_TASKS = {
    INVENTORY: Task(STUDY.digest),
    ROUND: Task(STUDY.digest, "teach", 2, {"teach": MODEL}),
    LABEL: Task(STUDY.digest, "apply", 1, {"teach": MODEL}),
    STAGE: Task(STUDY.digest, "student", 1, {"student": CHANGED}),
}


@pytest.mark.parametrize("kind", GOOD_TASKS)
def test_the_study_s_own_tasks_pass(kind: str) -> None:
    """What a study run sends is what every site accepts."""
    check_task(kind, GOOD_TASKS[kind], STUDY)


@pytest.mark.parametrize(
    ("kind", "changes", "code"),
    [
        (ROUND, {"study": "0" * 64}, "STR-205"),
        (ROUND, {"stage": "none"}, "STR-205"),
        (ROUND, {"round": 3}, "STR-205"),
        (ROUND, {"round": 0}, "STR-205"),
        (ROUND, {"models": {}}, "STR-205"),
        (ROUND, {"models": {"student": MODEL}}, "STR-205"),
        (ROUND, {"models": {"teach": MODEL, "student": MODEL}}, "STR-205"),
        (ROUND, {"models": {"teach": CHANGED}}, "STR-205"),
        (ROUND, {"models": {"teach": replace(MODEL, nbytes=len(FILE) + 1)}}, "STR-301"),
        (STAGE, {"models": {"student": replace(MODEL, nbytes=1)}}, "STR-301"),
        (
            STAGE,
            {"models": {"student": replace(MODEL, delta=Delta("1" * 64, "2" * 64, 1 << 30))}},
            "STR-301",
        ),
        (LABEL, {"models": {}}, "STR-205"),
        (LABEL, {"models": {"apply": MODEL}}, "STR-205"),
        (LABEL, {"stage": "teach"}, "STR-205"),
        (STAGE, {"stage": "apply"}, "STR-205"),
        (INVENTORY, {"stage": "teach"}, "STR-205"),
        (INVENTORY, {"models": {"teach": MODEL}}, "STR-205"),
    ],
)
def test_any_other_task_is_refused(kind: str, changes: dict[str, Any], code: str) -> None:
    """By the server before it is sent, and by the site when it comes."""
    with pytest.raises(StillroomError) as caught:
        check_task(kind, replace(GOOD_TASKS[kind], **changes), STUDY)
    assert caught.value.code == code


def test_replies_that_pass() -> None:
    """Every kind of task has an answer."""
    numbers = {"train.loss": 0.5, "train.cases": 3, "train.seconds": 9.0}
    check_reply(ROUND, "teach", Reply(UPDATE, {"a": 3}, numbers), STUDY, base="1" * 64)
    change = replace(UPDATE, encoding="int8-delta", nbytes=30)
    check_reply(ROUND, "student", Reply(change, {"a": 3}, numbers), STUDY)
    check_reply(INVENTORY, "", Reply(metrics={"inventory.cases": 0}), STUDY)
    check_reply(LABEL, "apply", Reply(metrics={"pseudo.vessels.kept": 3}), STUDY)
    scores = {"eval.cases": 4, "eval.vessels.vessel.cases": 3, "eval.vessels.vessel.dice": 0.8}
    check_reply(STAGE, "student", Reply(metrics=scores), STUDY)
    kept = {"eval.cases": 4, "eval.vessels.vessel.cases": 0}
    check_reply(STAGE, "student", Reply(metrics=kept), STUDY)


@pytest.mark.parametrize("cases", [None, 0, 2])
def test_scores_of_few_scans(cases: int | None) -> None:
    """Below the study's minimum of 3 they are refused on both sides, and so are uncounted ones."""
    counted = {} if cases is None else {"eval.vessels.vessel.cases": cases}
    reply = Reply(metrics={**counted, "eval.vessels.vessel.dice": 0.8})
    with pytest.raises(StillroomError) as caught:
        check_reply(STAGE, "student", reply, STUDY)
    assert caught.value.code == "STR-304"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"encoding": "int8-delta"}, "STR-300"),
        ({"base": "DOE^JANE"}, "STR-300"),
        ({"sha256": "../../site.key"}, "STR-300"),
        ({"nbytes": 1 << 30}, "STR-301"),
        ({"nbytes": 0}, "STR-301"),
        ({"base": "3" * 64}, "STR-307"),
    ],
)
def test_what_is_said_of_an_update(changes: dict[str, Any], code: str) -> None:
    """Its encoding is the stage's, its size is possible, and its base is what was sent."""
    reply = Reply(replace(UPDATE, **changes), {"a": 3}, {"train.loss": 0.5})
    with pytest.raises(StillroomError) as caught:
        check_reply(ROUND, "teach", reply, STUDY, base="1" * 64)
    assert caught.value.code == code
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (WEIGHTS, ""),
        ({"b": WEIGHTS["a.weight"]}, "STR-301"),
        ({**WEIGHTS, "scan": np.zeros(9, np.int16)}, "STR-301"),
        ({"a.weight": np.ones((2, 3), np.float32)}, "STR-302"),
        ({"a.weight": np.ones((3, 2), np.float64)}, "STR-302"),
        ({"a.weight": np.full((3, 2), np.nan, np.float32)}, "STR-303"),
        ({"a.weight": np.full((3, 2), 1e7, np.float32)}, "STR-303"),
    ],
)
def test_update_files(weights: dict[str, Any], code: str) -> None:
    """The file is held to the manifest; its norm is told."""
    data = serialise(weights)
    update = replace(UPDATE, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data))
    if not code:
        norm = check_update_file(io.BytesIO(data), update, MANIFEST, STUDY)
        assert norm == pytest.approx(6**0.5)
        assert len(data) == file_size(MANIFEST)
        return
    with pytest.raises(StillroomError) as caught:
        check_update_file(io.BytesIO(data), update, MANIFEST, STUDY)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [FILE[:-1], FILE + b"x", FILE[:4], b"", b"\xff" * 99])
def test_files_of_another_length(data: bytes) -> None:
    """STR-300, however it was cut or grown, and whatever the reply says of it."""
    update = replace(UPDATE, sha256=hashlib.sha256(data).hexdigest(), nbytes=len(data))
    with pytest.raises(StillroomError) as caught:
        check_update_file(io.BytesIO(data), update, MANIFEST, STUDY)
    assert caught.value.code == "STR-300"


def test_a_file_that_is_not_the_one_named() -> None:
    """STR-311, although everything in it is as it should be."""
    for other in (replace(UPDATE, sha256="4" * 64), replace(UPDATE, nbytes=len(FILE) + 1)):
        with pytest.raises(StillroomError) as caught:
            check_update_file(io.BytesIO(FILE), other, MANIFEST, STUDY)
        assert caught.value.code == "STR-311"


def test_a_refusal_quotes_nothing() -> None:
    """The name of a metric that came with a reply is not repeated."""
    with pytest.raises(StillroomError) as caught:
        check_reply(INVENTORY, "", Reply(metrics={"DOE^JANE": 1.0}), STUDY)
    assert "DOE" not in str(caught.value)


DTYPES = st.sampled_from(
    [np.dtype(n) for n in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")]
    + [np.dtype(n) for n in ("int64", "uint64", "float16", "float32", "float64")]
)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(DTYPES, SHAPES), max_size=6))
def test_the_header_is_the_one_safetensors_writes(
    layout: dict[str, tuple[np.dtype[Any], tuple[int, ...]]],
) -> None:
    """Ours, made from a layout, and theirs, made from tensors, are the same bytes."""
    layout.pop("__metadata__", None)
    weights = {name: np.ones(shape, dtype) for name, (dtype, shape) in layout.items()}
    data = serialise(weights)
    assert data.startswith(header({n: (str(d), s) for n, (d, s) in layout.items()}))
    back = views(data)
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)
        assert not back[name].flags.writeable
