"""The typed view of Flower records: the only string keys in the code base.

Server to site, a ``Task``; site to server, a ``Reply`` or an error that is nothing but a code.
Weights travel beside the message, as files named by the SHA-256 of their bytes; a message holds
their names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from stillroom.common.errors import CODES, ContractError, StillroomError

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

ENCODINGS = ("fp32", "bf16-delta", "int8-delta")
"""How an update's numbers are written (``stillroom.common.encoding``)."""

SITE_FAILED = 1
"""Flower's error code for every failure at a site; what happened is our code in its reason."""

_MODEL = "model."
_UPDATE = "update"
_CODE = re.compile(r"STR-[0-9]{3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 1 << 40
"""No file of weights is larger; what a study allows is far below."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A model as its difference from another one.

    Attributes:
        base: SHA-256 of the model it is added to.
        sha256: Of the encoded file (``common.encoding``).
        nbytes: Its size.
    """

    base: str
    sha256: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A global model that goes with a task; a site fetches only what it does not hold.

    Attributes:
        sha256: Of its safetensors file, and the name under which the whole file can be fetched.
        nbytes: Size of that file.
        delta: For a site that holds the base: the smaller way to the same bytes.
    """

    sha256: str
    nbytes: int
    delta: Delta | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What the server asks of a site.

    Attributes:
        study: Digest of the prepared study.
        stage: Stage name; empty for an inventory.
        round: 1-based; 0 where rounds do not apply.
        models: By stage name: the stage's own current model, and those of its teachers.
    """

    study: str
    stage: str = ""
    round: int = 0
    models: Mapping[str, ModelRef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateRef:
    """An update's file.

    Attributes:
        encoding: ``fp32`` (a safetensors file) or a delta encoding of ``common.encoding``.
        base: SHA-256 of the global model it was trained from.
        sha256: Of the file's bytes.
        nbytes: Its size.
    """

    encoding: str
    base: str
    sha256: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a site answers.

    Attributes:
        update: Where the stage manifest's tensors are; None for counts and scores.
        samples: Cases that put a gradient into each group.
        metrics: Whitelisted numbers (``stillroom.common.metrics``).
    """

    update: UpdateRef | None = None
    samples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def pack_task(task: Task) -> RecordDict:
    """``task`` as the content of a Flower message."""
    content = RecordDict(
        {"task": ConfigRecord({"study": task.study, "stage": task.stage, "round": task.round})}
    )
    for name, model in sorted(task.models.items()):
        content[_MODEL + name] = ConfigRecord(_model_fields(model))
    return content


def read_task(message: Message) -> Task:
    """The task in a message from the server.

    Raises:
        ContractError: STR-300 when it is not one.
    """
    try:
        content = message.content
        settings = {name: dict(record) for name, record in content.config_records.items()}
    except ValueError as error:
        raise _broken("The message holds no task.") from error
    if content.metric_records or content.array_records:
        raise _broken("The message holds more than a task.")
    return task_of(settings)


def task_of(settings: Mapping[str, Mapping[str, Any]]) -> Task:
    """The task in a message's settings, given by name of the record.

    Raises:
        ContractError: STR-300 when it is not one, or holds anything else: a path, a program,
            whatever it is, a task has no place for it.
    """
    header = dict(settings.get("task", {}))
    if header.keys() != {"study", "stage", "round"}:
        raise _broken("The message holds no task.")
    study, stage, number = header["study"], header["stage"], header["round"]
    if not (isinstance(study, str) and isinstance(stage, str) and type(number) is int):
        raise _broken("The task's header has values of the wrong type.")
    models = {}
    for name, fields in settings.items():
        if name.startswith(_MODEL):
            models[name.removeprefix(_MODEL)] = _model_of(fields)
        elif name != "task":
            raise _broken("The message holds more than a task.")
    return Task(study, stage, number, models)


def pack_reply(reply: Reply) -> RecordDict:
    """``reply`` as the content of a Flower message."""
    # Sorted, so that not even an order can say anything.
    content = RecordDict({"metrics": MetricRecord(dict(sorted(reply.metrics.items())))})
    if reply.update is not None:
        content["samples"] = MetricRecord(dict(sorted(reply.samples.items())))
        content[_UPDATE] = ConfigRecord(
            {
                "encoding": reply.update.encoding,
                "base": reply.update.base,
                "sha256": reply.update.sha256,
                "bytes": reply.update.nbytes,
            }
        )
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
    if content.array_records:
        raise _broken("The reply holds records that are not part of a reply.")
    return reply_of(
        {name: dict(record) for name, record in content.config_records.items()},
        {name: dict(record) for name, record in content.metric_records.items()},
    )


def reply_of(
    settings: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, Mapping[str, Any]]
) -> Reply:
    """The reply in a message's settings and numbers, given by name of the record.

    Raises:
        ContractError: STR-300, records other than a reply's; STR-304, a count that is none.
    """
    training = _UPDATE in settings
    if settings.keys() != ({_UPDATE} if training else set()) or numbers.keys() != (
        {"metrics", "samples"} if training else {"metrics"}
    ):
        raise _broken("The reply holds records that are not part of a reply.")
    samples = dict(numbers.get("samples", {}))
    if not all(type(value) is int and 0 <= value < 2**31 for value in samples.values()):
        raise ContractError(
            "The reply's sample counts are not counts.",
            fix="Check that site and server run the same release.",
            code="STR-304",
        )
    update = _update_of(settings[_UPDATE]) if training else None
    # Values are checked by common.metrics.check_metrics.
    return Reply(update, samples, dict(numbers["metrics"]))


def failure(error: BaseException) -> Error:
    """What may be told of a failure at a site: its code, never its text."""
    code = error.code if isinstance(error, StillroomError) else "STR-505"
    return Error(code=SITE_FAILED, reason=code)


def failure_code(error: Error) -> str:
    """The registered code in an error from the other side; STR-300 for anything else."""
    reason = error.reason or ""
    return reason if _CODE.fullmatch(reason) and reason in CODES else "STR-300"


def _model_fields(model: ModelRef) -> dict[str, Any]:
    fields: dict[str, Any] = {"sha256": model.sha256, "bytes": model.nbytes}
    if model.delta is not None:
        fields |= {
            "base": model.delta.base,
            "delta": model.delta.sha256,
            "delta-bytes": model.delta.nbytes,
        }
    return fields


def _model_of(fields: Mapping[str, Any]) -> ModelRef:
    delta = None
    if fields.keys() == {"sha256", "bytes", "base", "delta", "delta-bytes"}:
        delta = Delta(
            _digest(fields["base"]), _digest(fields["delta"]), _size(fields["delta-bytes"])
        )
    elif fields.keys() != {"sha256", "bytes"}:
        raise _broken("A model's record is not one of ours.")
    return ModelRef(_digest(fields["sha256"]), _size(fields["bytes"]), delta)


def _update_of(fields: Mapping[str, Any]) -> UpdateRef:
    if fields.keys() != {"encoding", "base", "sha256", "bytes"}:
        raise _broken("The update's record is not one of ours.")
    encoding = fields["encoding"]
    if encoding not in ENCODINGS:
        raise _broken("The update's encoding is none of ours.")
    return UpdateRef(
        encoding, _digest(fields["base"]), _digest(fields["sha256"]), _size(fields["bytes"])
    )


def _digest(value: object) -> str:
    if not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise _broken("A file's name is not a SHA-256.")
    return value


def _size(value: object) -> int:
    if not (type(value) is int and 0 < value <= MOST_BYTES):
        raise _broken("A file's size is not a size.")
    return value


def _broken(what: str) -> ContractError:
    return ContractError(what, fix="Check that site and server run the same release.")
