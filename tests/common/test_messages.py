"""Messages as the other side could send them: what is no task or reply is refused by one code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from stillroom.common.errors import CODES, ContractError, DataError
from stillroom.common.messages import (
    SITE_FAILED,
    Delta,
    ModelRef,
    Reply,
    Task,
    UpdateRef,
    failure,
    failure_code,
    pack_reply,
    pack_task,
    read_reply,
    read_task,
)

pytestmark = pytest.mark.usefixtures("inside_a_task")

A, B, C = "a" * 64, "b" * 64, "c" * 64
MODEL = ModelRef(A, 1000)
CHANGED = ModelRef(B, 1000, Delta(A, C, 260))
UPDATE = UpdateRef("bf16-delta", A, C, 300)
ARRAYS = ArrayRecord({"g": Array(np.zeros(4, np.float32))})


def message(content: RecordDict) -> Message:
    return Message(content, 7, "train.round")


def test_task_round_trip() -> None:
    """Everything a task says arrives, and nothing else."""
    task = Task("d" * 64, "student", 3, {"student": CHANGED, "teach-a": MODEL})

    assert read_task(message(pack_task(task))) == task
    assert read_task(message(pack_task(Task("d")))) == Task("d")


def test_reply_round_trip() -> None:
    """Where the update is, samples and numbers arrive as they were sent; counts stay counts."""
    reply = Reply(UPDATE, {"trunk": 4}, {"train.loss": 0.5, "train.cases": 4})

    back = read_reply(message(pack_reply(reply)))

    assert back == reply
    assert type(back.metrics["train.cases"]) is int
    assert read_reply(message(pack_reply(Reply()))) == Reply()


GOOD_MODEL: dict[str, Any] = {"sha256": A, "bytes": 12}
GOOD_UPDATE: dict[str, Any] = {"encoding": "fp32", "base": A, "sha256": B, "bytes": 12}
WRONG: list[Any] = ["", "../../etc/passwd", A.upper(), A[:-1], A + "\n", b"a", 7, [A]]
WRONG_SIZES: list[Any] = [0, -1, 2**41, 1.5, "12", True, [12]]

HOSTILE_MODELS: list[dict[str, Any]] = [
    {},
    {"sha256": A},
    GOOD_MODEL | {"path": "/data"},
    GOOD_MODEL | {"base": B},
    GOOD_MODEL | {"base": B, "delta": "x", "delta-bytes": 1},
    *(GOOD_MODEL | {"sha256": value} for value in WRONG),
    *(GOOD_MODEL | {"bytes": value} for value in WRONG_SIZES),
]
HOSTILE_UPDATES: list[dict[str, Any]] = [
    {},
    GOOD_UPDATE | {"name": "DOE^JANE"},
    GOOD_UPDATE | {"encoding": "pickle"},
    GOOD_UPDATE | {"encoding": ["fp32"]},
    *(GOOD_UPDATE | {key: value} for key in ("base", "sha256") for value in WRONG),
    *(GOOD_UPDATE | {"bytes": value} for value in WRONG_SIZES),
]


@pytest.mark.parametrize("fields", HOSTILE_MODELS, ids=str)
def test_hostile_models(fields: dict[str, Any]) -> None:
    """A model is a digest and a size, or the task is refused."""
    content = pack_task(Task("d"))
    content["model.student"] = ConfigRecord(fields)

    with pytest.raises(ContractError) as caught:
        read_task(message(content))

    assert caught.value.code == "STR-300"


@pytest.mark.parametrize("fields", HOSTILE_UPDATES, ids=str)
def test_hostile_updates(fields: dict[str, Any]) -> None:
    """An update is a digest, a size, a base and an encoding of ours, and nothing is quoted."""
    content = pack_reply(Reply(UPDATE, {"trunk": 1}, {}))
    content["update"] = ConfigRecord(fields)

    with pytest.raises(ContractError) as caught:
        read_reply(message(content))

    assert caught.value.code == "STR-300"
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("side", ["task", "reply"])
def test_arrays_have_no_place_in_messages(side: str) -> None:
    """Weights travel beside messages; one that brings its own is refused."""
    content = pack_task(Task("d")) if side == "task" else pack_reply(Reply())
    content["weights"] = ARRAYS

    with pytest.raises(ContractError) as caught:
        (read_task if side == "task" else read_reply)(message(content))

    assert caught.value.code == "STR-300"


HOSTILE_REPLIES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "extra metrics": (lambda: {"patients": MetricRecord({"age": 70})}, "STR-300"),
    "extra tensors": (lambda: {"gradients": ARRAYS}, "STR-300"),
    "text": (lambda: {"notes": ConfigRecord({"name": "DOE^JANE"})}, "STR-300"),
    "text as metrics": (lambda: {"metrics": ConfigRecord({"name": "DOE^JANE"})}, "STR-300"),
    "numbers as update": (lambda: {"update": MetricRecord({"bytes": 1})}, "STR-300"),
    "tensors as metrics": (lambda: {"metrics": ARRAYS}, "STR-300"),
    "tensors as samples": (lambda: {"samples": ARRAYS}, "STR-300"),
    "list of samples": (lambda: {"samples": MetricRecord({"trunk": [1, 2]})}, "STR-304"),
    "fraction of a sample": (lambda: {"samples": MetricRecord({"trunk": 0.5})}, "STR-304"),
    "negative samples": (lambda: {"samples": MetricRecord({"trunk": -1})}, "STR-304"),
    "billions of samples": (lambda: {"samples": MetricRecord({"trunk": 2**40})}, "STR-304"),
}


@pytest.mark.parametrize("name", HOSTILE_REPLIES)
def test_hostile_replies(name: str) -> None:
    """A record of another name or kind is refused, and nothing of it is repeated."""
    records, code = HOSTILE_REPLIES[name]
    content = pack_reply(Reply(UPDATE, {"trunk": 1}, {}))
    content.update(records())

    with pytest.raises(ContractError) as caught:
        read_reply(message(content))

    assert caught.value.code == code
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"task": MetricRecord({"round": 1})}),
        RecordDict({"task": ConfigRecord({"study": "d", "stage": "s"})}),
        RecordDict({"task": ConfigRecord({"study": b"d", "stage": "s", "round": 1})}),
        RecordDict({"task": ConfigRecord({"study": "d", "stage": "s", "round": "1"})}),
        RecordDict({"task": ConfigRecord({"study": "d", "stage": ["s"], "round": 1})}),
    ],
)
def test_messages_that_are_no_task(content: RecordDict) -> None:
    """A site does nothing for a message that does not say what is asked."""
    with pytest.raises(ContractError) as caught:
        read_task(message(content))

    assert caught.value.code == "STR-300"


def test_a_failure_is_nothing_but_a_code() -> None:
    """The text of an exception may name a file or quote a tag: it stays where it was raised."""
    expected = DataError("Scan DOE^JANE is torn.", fix="Look at /data/doe.", code="STR-418")

    assert failure(expected) == Error(SITE_FAILED, "STR-418")
    assert failure(RuntimeError("DOE^JANE")) == Error(SITE_FAILED, "STR-505")


@pytest.mark.parametrize(
    "reason", ["DOE^JANE", "", None, "STR-999", "STR-401: DOE^JANE", "STR-401\n", "str-401"]
)
def test_only_registered_codes_are_read(reason: str | None) -> None:
    """Words from a site go nowhere: not into a record, not onto the operator's screen."""
    assert failure_code(Error(SITE_FAILED, reason)) == "STR-300"

    broken = Message(Error(SITE_FAILED, reason), reply_to=message(RecordDict()))
    with pytest.raises(ContractError) as caught:
        read_reply(broken)
    assert "DOE" not in str(caught.value)


def test_a_registered_code_is_told() -> None:
    """The operator reads our own words for the site's code."""
    broken = Message(Error(SITE_FAILED, "STR-401"), reply_to=message(RecordDict()))

    with pytest.raises(ContractError) as caught:
        read_reply(broken)

    assert caught.value.code == "STR-401"
    assert CODES["STR-401"] in caught.value.what
