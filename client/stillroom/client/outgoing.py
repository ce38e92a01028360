"""A message that may leave: framed here, field by field, never passed on as the runner made it."""

from dataclasses import dataclass, field

from flwr.app import Error, Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)

from stillroom.client.outbox import Sealed
from stillroom.common.messages import SITE_FAILED, Reply, pack_reply


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What may leave: a message, the objects it is made of, and the file it speaks of.

    Attributes:
        message: A name, numbers and metadata; for a refusal, the code.
        tree: Object ids of the message and its parts.
        objects: Object id -> bytes.
        update: The file; None where only numbers or a code leave.
    """

    message: Message
    tree: ObjectTree
    objects: dict[str, bytes] = field(default_factory=dict)
    update: Sealed | None = None


def content_reply(request: Message, reply: Reply, update: Sealed | None = None) -> Outgoing:
    """A reply, every part of which was looked at, in a message of ours."""
    return _framed(Message(pack_reply(reply), reply_to=request), update)


def error_reply(request: Message, code: str) -> Outgoing:
    """A registered code and nothing else."""
    return _framed(Message(Error(SITE_FAILED, code), reply_to=request))


def _framed(message: Message, update: Sealed | None = None) -> Outgoing:
    """``message`` as Flower moves it: its id is the digest of its bytes without that id."""
    message.metadata.__dict__["_message_id"] = ""
    objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    tree = get_object_tree(message)
    message.metadata.__dict__["_message_id"] = tree.object_id
    return Outgoing(message, tree, objects, update)
