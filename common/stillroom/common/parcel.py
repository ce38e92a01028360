"""A Flower message as the objects it travels in, opened without trusting one of them.

Flower moves a message as a tree of objects, each named by the SHA-256 of its bytes: the message,
its content, its records. Flower's own decoder believes the tree: an array that lists one chunk a
million times takes five terabytes, a text where a number should be ends in an error of any kind,
and what a decoder skips (unknown fields, white space, a second spelling of a length) travels on
unseen. Here there are no arrays at all, the depth is fixed, and every object is small and must be
byte for byte the one Flower writes for what was read out of it.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ConfigRecord, MetricRecord
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from stillroom.common.errors import ContractError

Fetch = Callable[[str], bytes]
"""Object id -> its bytes, whose SHA-256 has been found to be that id."""

SMALL = 1 << 20
"""Bytes of the largest object."""
MOST_RECORDS = 64
_OBJECT_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Parcel:
    """What a message holds.

    Attributes:
        metadata: As the sender wrote it.
        reason: Of an error reply, which has no content; None for any other.
        numbers: Metric records by name.
        settings: Config records by name.
    """

    metadata: Metadata = field(default_factory=Metadata)
    reason: str | None = None
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_parcel(message_id: str, fetch: Fetch) -> Parcel:
    """Read a message out of its objects.

    Args:
        message_id: Object id of the message itself.
        fetch: Brings one object; what it raises passes through.

    Raises:
        ContractError: STR-300, it is not a message of ours. Quotes nothing of it.
    """
    try:
        return _Opening(fetch).message(message_id)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _broken() from error
    except (DecodeError, RecursionError, OverflowError) as error:
        raise _broken() from error


def frame(kind: str, children: tuple[str, ...], body: bytes) -> bytes:
    """An object as Flower writes it."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body


def split(content: bytes) -> tuple[str, tuple[str, ...], memoryview]:
    """Kind, children and body of an object; the inverse of ``frame``.

    Raises:
        ValueError: It is not framed exactly so.
    """
    end = content.find(b"\x00", 0, SMALL)
    kind, listed, length = content[: max(end, 0)].decode("ascii").split(" ")
    children = tuple(listed.split(",")) if listed else ()
    body = memoryview(content)[end + 1 :]
    if length != str(len(body)) or not all(map(_OBJECT_ID.fullmatch, children)):
        raise ValueError("an object is not framed as it should be")
    return kind, children, body


class _Opening:
    """One parcel being opened; every step raises ValueError where something is not as it should."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._parcel = Parcel()

    def message(self, message_id: str) -> Parcel:
        content = self._small(message_id)
        kind, children, body = split(content)
        proto = ProtoMessage.FromString(bytes(body))
        _need(kind == "Message" and not proto.HasField("content"))
        # Nothing in fields that this release does not know.
        proto.DiscardUnknownFields()
        _need(proto.SerializeToString(deterministic=True) == bytes(body))
        self._parcel.metadata = proto.metadata
        if proto.HasField("error"):
            _need(not children)
            self._parcel.reason = proto.error.reason
            return self._parcel
        (root,) = children
        self._content(root)
        return self._parcel

    def _content(self, object_id: str) -> None:
        content = self._small(object_id)
        kind, children, body = split(content)
        references = _mapping(body)
        _need(kind == "RecordDict" and len(references) <= MOST_RECORDS)
        _need(children == tuple(dict.fromkeys(references.values())))
        for name, child in references.items():
            self._record(name, child)
        _need(content == frame(kind, children, json.dumps(references).encode()))

    def _record(self, name: str, object_id: str) -> None:
        content = self._small(object_id)
        kind, children, _ = split(content)
        _need(not children)
        if kind == "MetricRecord":
            numbers = MetricRecord.inflate(content)
            _need(numbers.deflate() == content)
            self._parcel.numbers[name] = dict(numbers)
        elif kind == "ConfigRecord":
            settings = ConfigRecord.inflate(content)
            _need(settings.deflate() == content)
            self._parcel.settings[name] = dict(settings)
        else:
            raise ValueError("a record of another kind")

    def _small(self, object_id: str) -> bytes:
        _need(_OBJECT_ID.fullmatch(object_id) is not None)
        content = self._fetch(object_id)
        _need(len(content) <= SMALL)
        return content


def _mapping(body: memoryview) -> Mapping[str, str]:
    """Names and object ids."""
    value = json.loads(bytes(body))
    _need(type(value) is dict and all(type(item) is str for item in value.values()))
    return value  # type: ignore[no-any-return]  # just checked


def _need(fact: object) -> None:
    if not fact:
        raise ValueError("an object is not what it should be")


def _broken() -> ContractError:
    return ContractError(
        "A message is not one of ours.",
        fix="Check that site and server run the same release.",
    )
