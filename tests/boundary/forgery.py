"""Makers of messages that nobody should send: each takes a good one and changes one thing."""

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attempts import DESK, GOOD, GOOD_FILE, METRICS, PATIENT, SAMPLES, ask, digest, honest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import MetricRecord as ProtoMetricRecord

from stillroom.common.errors import TrustError
from stillroom.common.messages import (
    Reply,
    pack_reply,
    pack_task,
)
from stillroom.common.parcel import frame, split
from stillroom.common.tensorfile import serialise


def update(
    weights: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Callable[[Message], Message]:
    """A reply with other weights, counts or numbers."""

    def make(request: Message) -> Message:
        reply = Reply(
            DESK.deliver(GOOD_FILE if weights is None else serialise(weights)),
            SAMPLES if samples is None else samples,
            METRICS if metrics is None else metrics,
        )
        return Message(pack_reply(reply), reply_to=request)

    return make


def numbers(**metrics: Any) -> Callable[[Message], Message]:
    """A reply of numbers alone."""
    given = {name.replace("_", "."): value for name, value in metrics.items()}
    return lambda request: Message(pack_reply(Reply(metrics=given)), reply_to=request)


def swapped(name: str, value: Any) -> dict[str, Any]:
    """The update with one tensor replaced."""
    return {**GOOD, name: value}


def filled(value: float, count: int = 1) -> dict[str, Any]:
    """The update with ``count`` values of its largest tensor replaced."""
    tensor = GOOD["trunk.weight"].copy()
    tensor.reshape(-1)[:count] = value
    return swapped("trunk.weight", tensor)


def with_record(name: str, record: Any) -> Callable[[Message], Message]:
    """A good reply and one record more, or another one in the place of one of its own."""

    def make(request: Message) -> Message:
        content = pack_reply(Reply(DESK.deliver(GOOD_FILE), SAMPLES, METRICS))
        content[name] = record
        return Message(content, reply_to=request)

    return make


def with_array(array: Array, key: str = "safetensors") -> Callable[[Message], Message]:
    """A good reply that holds an array as well."""
    return with_record("weights", ArrayRecord({key: array}))


def with_file(
    data: bytes | Callable[[], bytes], *, base: str = "", name: str = ""
) -> Callable[[Message], Message]:
    """A good reply about another file; a large one is made when it is needed."""

    def make(request: Message) -> Message:
        update = DESK.deliver(data if isinstance(data, bytes) else data(), base=base, name=name)
        return Message(pack_reply(Reply(update, SAMPLES, METRICS)), reply_to=request)

    return make


def with_ref(**changes: Any) -> Callable[[Message], Message]:
    """A good reply that says something else of its file."""

    def make(request: Message) -> Message:
        content = pack_reply(Reply(DESK.deliver(GOOD_FILE), SAMPLES, METRICS))
        content["update"] = ConfigRecord({**dict(content["update"]), **changes})
        return Message(content, reply_to=request)

    return make


def in_its_place(change: Callable[[Path], None]) -> Callable[[Message], Message]:
    """A good reply; afterwards something else stands where its file was."""

    def make(request: Message) -> Message:
        reply = honest(request)
        change(DESK.exchange.update(digest(GOOD_FILE)))
        return reply

    return make


def linked(path: Path) -> None:
    """A link to a file of the very same bytes, elsewhere."""
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def folder_linked(path: Path) -> None:
    """The whole folder is a link to another one."""
    path.parent.rename(path.parents[1] / "elsewhere")
    path.parent.symlink_to(path.parents[1] / "elsewhere")


def piped(path: Path) -> None:
    """A pipe, which nobody ever writes to."""
    path.unlink()
    os.mkfifo(path)


def file(data: bytes) -> Array:
    """Bytes in an array of a message, where weights used to be."""
    return Array("uint8", (len(data),), "safetensors", data)


def rewritten(change: Callable[[bytes], bytes], tail: bytes = b"") -> bytes:
    """The good file with another header, its length made right again, and bytes at its end."""
    data = GOOD_FILE
    size = int.from_bytes(data[:8], "little")
    head = change(data[8 : 8 + size].rstrip(b" "))
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data[8 + size :] + tail


def many_tensors(count: int = 1_000_000) -> bytes:
    """A header of a million names, one byte each."""
    entries = b",".join(
        b'"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (n, n, n + 1)
        for n in range(count)
    )
    head = b"{" + entries + b"}"
    return len(head).to_bytes(8, "little") + head + bytes(count)


def pickled() -> Array:
    """NumPy's own format around a pickle that would run a command."""
    return Array("object", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00" + pickle.dumps(print))


def meta(**changes: Any) -> Callable[[Message], Message]:
    """A good reply with other metadata."""

    def make(request: Message) -> Message:
        reply = honest(request)
        for name, value in changes.items():
            reply.metadata.__dict__[f"_{name}"] = value
        return reply

    return make


def error(reason: str) -> Callable[[Message], Message]:
    """An error reply."""
    return lambda request: Message(Error(1, reason), reply_to=request)


def old_reply(request: Message) -> Message:
    """The answer to another round's message, sent again now."""
    reply = honest(request)
    reply.metadata.__dict__["_reply_to_message_id"] = "a" * 64
    return reply


def on(kind: str, change: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    """Change the objects of one kind."""
    return lambda found, content: change(content) if found == kind else content


def body(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change an object's body and keep its frame right."""

    def make(content: bytes) -> bytes:
        kind, children, old = split(content)
        return frame(kind, children, change(bytes(old)))

    return make


def bomb(old: bytes) -> bytes:
    """An array of one chunk, a hundred thousand times."""
    layout = json.loads(old)
    return json.dumps(layout | {"shape": [100_000 << 20], "arraychunk_ids": [0] * 100_000}).encode()


def unknown_field(data: bytes) -> bytes:
    """A field no release knows (number 99), holding text."""
    return data + b"\x9a\x06" + bytes([len(PATIENT)]) + PATIENT.encode()


def twice(data: bytes) -> bytes:
    """The same metric twice: a decoder keeps one and passes the other on."""
    record = ProtoMetricRecord.FromString(data)
    if not record.items:
        return data
    record.items.append(record.items[0])
    return record.SerializeToString()


def hidden_message(data: bytes) -> bytes:
    """Content inside the message's own object, where nobody looks."""
    proto = ProtoMessage.FromString(data)
    proto.content.SetInParent()
    return proto.SerializeToString(deterministic=True)


def plus_length(content: bytes) -> bytes:
    """The length spelt with a sign: Python reads it, and one bit of news travels."""
    head, rest = content.split(b"\x00", 1)
    kind, children, length = head.split(b" ")
    return b" ".join([kind, children, b"+" + length]) + b"\x00" + rest


def task_with(**changes: Any) -> Callable[[], RecordDict]:
    """The server's message with other header fields."""

    def make() -> RecordDict:
        content = pack_task(ask())
        content["task"] = ConfigRecord({**dict(content["task"]), **changes})
        return content

    return make


def task_model(**changes: Any) -> Callable[[], RecordDict]:
    """The server's message, which says something else of its model."""

    def make() -> RecordDict:
        content = pack_task(ask())
        content["model.student"] = ConfigRecord({**dict(content["model.student"]), **changes})
        return content

    return make


def task_and(name: str, record: Any) -> Callable[[], RecordDict]:
    """The server's message and one record more."""

    def make() -> RecordDict:
        content = pack_task(ask())
        content[name] = record
        return content

    return make


def no_consent() -> None:
    """What a site says that never agreed, or does no longer."""
    raise TrustError("This site has not consented.", fix="Ask it.", code="STR-208")
