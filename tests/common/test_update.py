"""One check for both sides: what answers a kind of task, and what a task may be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.errors import StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, Task
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import header, serialise, views
from stillroom.common.update import check_reply, check_task

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
                {"name": "student", "recipe": "distil"},
            ],
        }
    )
    stage = PreparedStage(initial_sha256="0" * 64, manifest=MANIFEST)
    return PreparedStudy(study=study, stages={"teach": stage, "student": stage})


STUDY = prepared()
GOOD_TASKS = {
    INVENTORY: Task(STUDY.digest),
    ROUND: Task(STUDY.digest, "teach", 2, WEIGHTS),
    LABEL: Task(STUDY.digest, "apply", 1, None, {"teach": WEIGHTS}),
    STAGE: Task(STUDY.digest, "student", 1, WEIGHTS),
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
        (ROUND, {"weights": None}, "STR-205"),
        (ROUND, {"teachers": {"student": WEIGHTS}}, "STR-205"),
        (ROUND, {"teachers": {"teach": WEIGHTS}, "weights": None}, "STR-205"),
        (ROUND, {"weights": {"b": WEIGHTS["a.weight"]}}, "STR-301"),
        (ROUND, {"weights": {"a.weight": np.ones((2, 3), np.float32)}}, "STR-302"),
        (ROUND, {"weights": {"a.weight": np.full((3, 2), np.nan, np.float32)}}, "STR-303"),
        (LABEL, {"teachers": {}}, "STR-205"),
        (LABEL, {"weights": WEIGHTS}, "STR-205"),
        (LABEL, {"stage": "teach"}, "STR-205"),
        (STAGE, {"stage": "apply"}, "STR-205"),
        (INVENTORY, {"stage": "teach"}, "STR-205"),
        (INVENTORY, {"weights": WEIGHTS}, "STR-205"),
    ],
)
def test_any_other_task_is_refused(kind: str, changes: dict[str, Any], code: str) -> None:
    """By the server before it is sent, and by the site when it comes."""
    with pytest.raises(StillroomError) as caught:
        check_task(kind, replace(GOOD_TASKS[kind], **changes), STUDY)
    assert caught.value.code == code


def test_replies_that_pass() -> None:
    """Every kind of task has an answer, and the norm of an update is told."""
    reply = Reply(WEIGHTS, {"a": 3}, {"train.loss": 0.5, "train.cases": 3, "train.seconds": 9.0})
    assert check_reply(ROUND, "teach", reply, STUDY) == pytest.approx(6**0.5)
    assert check_reply(INVENTORY, "", Reply(metrics={"inventory.cases": 0}), STUDY) == 0
    assert check_reply(LABEL, "apply", Reply(metrics={"pseudo.vessels.kept": 3}), STUDY) == 0
    scores = {"eval.cases": 4, "eval.vessels.vessel.dice": 0.8}
    assert check_reply(STAGE, "student", Reply(metrics=scores), STUDY) == 0


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
