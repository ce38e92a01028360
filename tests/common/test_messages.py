"""Messages as the other side could send them: what is no task or reply is refused by one code."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from stillroom.common.errors import CODES, ContractError, DataError
from stillroom.common.messages import (
    SITE_FAILED,
    Reply,
    Task,
    failure,
    failure_code,
    pack_reply,
    pack_task,
    read_reply,
    read_task,
    tensor_bytes,
)
from stillroom.common.tensorfile import serialise

pytestmark = pytest.mark.usefixtures("inside_a_task")

WEIGHTS = {
    "trunk.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "s": np.float32(3).reshape(()),
}


def message(content: RecordDict) -> Message:
    return Message(content, 7, "train.round")


def same(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(left[k], right[k]) and left[k].shape == right[k].shape for k in left
    )


def test_task_round_trip() -> None:
    """Everything a task says arrives, and nothing else."""
    task = Task("d" * 64, "student", 3, WEIGHTS, {"teach-a": WEIGHTS, "teach-b": {}})
    back = read_task(message(pack_task(task)))

    assert (back.study, back.stage, back.round) == ("d" * 64, "student", 3)
    assert back.weights is not None
    assert same(back.weights, WEIGHTS)
    assert back.teachers.keys() == {"teach-a", "teach-b"}
    assert same(back.teachers["teach-a"], WEIGHTS)
    assert read_task(message(pack_task(Task("d")))) == Task("d")


def test_reply_round_trip() -> None:
    """Weights, samples and numbers arrive as they were sent; counts stay counts."""
    reply = Reply(WEIGHTS, {"trunk": 4}, {"train.loss": 0.5, "train.cases": 4})
    back = read_reply(message(pack_reply(reply)))

    assert back.weights is not None
    assert same(back.weights, WEIGHTS)
    assert (back.samples, back.metrics) == (reply.samples, reply.metrics)
    assert read_reply(message(pack_reply(Reply()))) == Reply()
    assert tensor_bytes(back.weights) == 28
    assert tensor_bytes(None) == 0


def array(data: bytes, stype: str = "safetensors", dtype: str = "uint8") -> Array:
    return Array(dtype, (len(data),), stype, data)


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117) + b"\n"
)
BLOB = serialise(WEIGHTS)

HOSTILE_WEIGHTS: dict[str, dict[str, Array]] = {
    "another name": {"model": array(BLOB)},
    "two files": {"safetensors": array(BLOB), "more": array(BLOB)},
    "no file": {},
    "an array": {"safetensors": Array(np.zeros(4, np.float32))},
    "truncated": {"safetensors": array(BLOB[:-2])},
    "huge header": {"safetensors": array(b"\xff" * 64)},
    "empty": {"safetensors": array(b"")},
    "pickle": {"safetensors": array(b"\x80\x04N.")},
    "archive": {"safetensors": array(npz())},
    "archive as an array": {"safetensors": array(npz(), "numpy.ndarray")},
    "no archive": {"safetensors": array(b"PK\x03\x04 but no archive", "numpy.ndarray")},
    "terabytes": {"safetensors": array(HUGE, "numpy.ndarray")},
    "broken header": {
        "safetensors": array(b"\x93NUMPY\x01\x00v\x00" + b"(" * 118, "numpy.ndarray")
    },
    "another kind": {"safetensors": array(BLOB, "torch.tensor")},
}


@pytest.mark.parametrize("name", HOSTILE_WEIGHTS)
@pytest.mark.parametrize("side", ["task", "reply"])
def test_hostile_weights(name: str, side: str) -> None:
    """Whatever lies where a safetensors file should: one refusal, and its content is not quoted."""
    content = pack_task(Task("d")) if side == "task" else pack_reply(Reply())
    content["weights"] = ArrayRecord(HOSTILE_WEIGHTS[name])

    with pytest.raises(ContractError) as caught:
        (read_task if side == "task" else read_reply)(message(content))

    assert caught.value.code == "STR-300"
    assert "archive" not in str(caught.value)


HOSTILE_REPLIES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "extra metrics": (lambda: {"patients": MetricRecord({"age": 70})}, "STR-300"),
    "extra tensors": (lambda: {"gradients": ArrayRecord({"g": array(BLOB)})}, "STR-300"),
    "text": (lambda: {"notes": ConfigRecord({"name": "DOE^JANE"})}, "STR-300"),
    "text as metrics": (lambda: {"metrics": ConfigRecord({"name": "DOE^JANE"})}, "STR-300"),
    "numbers as weights": (lambda: {"weights": MetricRecord({"a": 1})}, "STR-300"),
    "tensors as metrics": (lambda: {"metrics": ArrayRecord({"g": array(BLOB)})}, "STR-300"),
    "tensors as samples": (lambda: {"samples": ArrayRecord({"g": array(BLOB)})}, "STR-300"),
    "list of samples": (lambda: {"samples": MetricRecord({"trunk": [1, 2]})}, "STR-304"),
    "fraction of a sample": (lambda: {"samples": MetricRecord({"trunk": 0.5})}, "STR-304"),
    "negative samples": (lambda: {"samples": MetricRecord({"trunk": -1})}, "STR-304"),
    "billions of samples": (lambda: {"samples": MetricRecord({"trunk": 2**40})}, "STR-304"),
}


@pytest.mark.parametrize("name", HOSTILE_REPLIES)
def test_hostile_replies(name: str) -> None:
    """A record of another name or kind is refused, and nothing of it is repeated."""
    records, code = HOSTILE_REPLIES[name]
    content = pack_reply(Reply(WEIGHTS, {"trunk": 1}, {}))
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
