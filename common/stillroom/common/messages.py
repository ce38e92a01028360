"""The typed view of Flower records: the only string keys in the code base.

Server to site, a ``Task``; site to server, a ``Reply`` or an error that is nothing but a code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from stillroom.common.errors import CODES, ContractError, StillroomError
from stillroom.common.manifest import Weights
from stillroom.common.tensorfile import serialise, views

INVENTORY = "inventory"
"""``query``: how many cases of which label. Answer: metrics."""
ROUND = "round"
"""``train``: learn for one round from the weights sent. Answer: weights, samples, metrics."""
LABEL = "label"
"""``train``: apply the teachers sent to local scans. Answer: metrics (counts) only."""
STAGE = "stage"
"""``evaluate``: score the weights sent on local cases. Answer: metrics."""

MESSAGE_TYPES = {
    INVENTORY: f"query.{INVENTORY}",
    ROUND: f"train.{ROUND}",
    LABEL: f"train.{LABEL}",
    STAGE: f"evaluate.{STAGE}",
}
"""Kind of task -> Flower message type."""

SITE_FAILED = 1
"""Flower's error code for every failure at a site; what happened is our code in its reason."""

_MODEL = "weights"
_FILE = "safetensors"
_TEACHER = "teacher."
_CODE = re.compile(r"STR-[0-9]{3}")


@dataclass(frozen=True, slots=True)
class Task:
    """What the server asks of a site.

    Attributes:
        study: Digest of the prepared study.
        stage: Stage name; empty for an inventory.
        round: 1-based; 0 where rounds do not apply.
        weights: The stage's current model; None where there is none.
        teachers: By ``teach`` stage name.
    """

    study: str
    stage: str = ""
    round: int = 0
    weights: Weights | None = None
    teachers: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a site answers.

    Attributes:
        weights: Exactly the stage manifest's tensors; None for counts and scores.
        samples: Cases that put a gradient into each group.
        metrics: Whitelisted numbers (``stillroom.common.metrics``).
    """

    weights: Weights | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def pack_task(task: Task) -> RecordDict:
    """``task`` as the content of a Flower message."""
    content = RecordDict(
        {"task": ConfigRecord({"study": task.study, "stage": task.stage, "round": task.round})}
    )
    if task.weights is not None:
        content[_MODEL] = _arrays(task.weights)
    for name, weights in task.teachers.items():
        content[_TEACHER + name] = _arrays(weights)
    return content


def read_task(message: Message) -> Task:
    """The task in a message from the server.

    Raises:
        ContractError: STR-300 when it is not one.
    """
    try:
        content = message.content
        configs, arrays = content.config_records, content.array_records
        header = dict(configs["task"])
        study, stage, number = header.pop("study"), header.pop("stage"), header.pop("round")
    except (KeyError, ValueError) as error:
        raise _broken("The message holds no task.") from error
    if header or len(configs) > 1 or content.metric_records:
        # A path, a setting, a program: whatever it is, a task has no place for it.
        raise _broken("The message holds more than a task.")
    if not all(name == _MODEL or name.startswith(_TEACHER) for name in arrays):
        raise _broken("The message holds more than a task.")
    if not (isinstance(study, str) and isinstance(stage, str) and type(number) is int):
        raise _broken("The task's header has values of the wrong type.")
    return Task(
        study=study,
        stage=stage,
        round=number,
        weights=_copies(arrays[_MODEL]) if _MODEL in arrays else None,
        teachers={
            name.removeprefix(_TEACHER): _copies(record)
            for name, record in arrays.items()
            if name.startswith(_TEACHER)
        },
    )


def pack_reply(reply: Reply) -> RecordDict:
    """``reply`` as the content of a Flower message."""
    # Sorted, so that not even an order can say anything.
    content = RecordDict({"metrics": MetricRecord(dict(sorted(reply.metrics.items())))})
    if reply.weights is not None:
        content[_MODEL] = _arrays(reply.weights)
        content["samples"] = MetricRecord(dict(sorted(reply.samples.items())))
    return content


def read_reply(message: Message) -> Reply:
    """The reply in a message from a site; types are checked here, values by the caller.

    Raises:
        ContractError: The site failed, with the code it gave; or the message holds records
            other than a reply's (STR-300) or a number that is not one (STR-304).
    """
    if message.has_error():
        code = failure_code(message.error)
        raise ContractError(
            f"The site answered with {code}: {CODES[code]}",
            fix="See that site's own log; it holds the details.",
            code=code,
        )
    if not message.has_content():
        raise _broken("The reply is empty.")
    content = message.content
    arrays, numbers = content.array_records, content.metric_records
    if (
        content.config_records
        or not arrays.keys() <= {_MODEL}
        or not numbers.keys() <= {"samples", "metrics"}
    ):
        raise _broken("The reply holds records that are not part of a reply.")
    samples = dict(numbers.get("samples", {}))
    if not all(type(value) is int and 0 <= value < 2**31 for value in samples.values()):
        raise ContractError(
            "The reply's sample counts are not counts.",
            fix="Check that site and server run the same release.",
            code="STR-304",
        )
    metrics = dict(numbers.get("metrics", {}))
    return Reply(
        weights=_weights(arrays[_MODEL]) if _MODEL in arrays else None,
        samples=samples,  # type: ignore[arg-type]  # just checked
        metrics=metrics,  # type: ignore[arg-type]  # checked by common.metrics.check_metrics
    )


def failure(error: BaseException) -> Error:
    """What may be told of a failure at a site: its code, never its text."""
    code = error.code if isinstance(error, StillroomError) else "STR-505"
    return Error(code=SITE_FAILED, reason=code)


def failure_code(error: Error) -> str:
    """The registered code in an error from the other side; STR-300 for anything else."""
    reason = error.reason or ""
    return reason if _CODE.fullmatch(reason) and reason in CODES else "STR-300"


def tensor_bytes(weights: Weights | None) -> int:
    """Bytes of the arrays themselves, without framing."""
    return 0 if weights is None else sum(value.nbytes for value in weights.values())


def _arrays(weights: Weights) -> ArrayRecord:
    """Weights as one array of bytes: a safetensors file.

    Flower moves every array as objects of its own, each a request per hop and a row in the
    server's database: 150 tensors took seconds where one blob takes milliseconds. The file
    also carries names, shapes and dtypes, so the receiver checks them before it uses a number.
    """
    blob = serialise(weights)
    return ArrayRecord({_FILE: Array("uint8", (len(blob),), _FILE, blob)})


def _weights(record: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    """Read-only views of the tensors a peer sent."""
    if list(record) != [_FILE] or record[_FILE].stype != _FILE:
        raise _broken("The message's weights are not one safetensors file.")
    try:
        # Never through NumPy's own file format: a hostile one takes memory, or ends in errors of
        # every kind, before anything can be checked.
        return views(record[_FILE].data)
    except ValueError as error:
        raise _broken("The message's weights are not one safetensors file.") from error


def _copies(record: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    """The same, for a recipe to write into."""
    return {name: value.copy() for name, value in _weights(record).items()}


def _broken(what: str) -> ContractError:
    return ContractError(what, fix="Check that site and server run the same release.")
