"""A message that may leave: framed here, field by field, never passed on as the runner made it."""

from dataclasses import dataclass, field
from hashlib import sha256

from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree

from stillroom.common.messages import SITE_FAILED
from stillroom.common.parcel import Parcel, frame


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What may leave: a message without content, and the objects its content is made of.

    Attributes:
        message: Metadata and, for a refusal, the code.
        tree: Object ids of the message and its parts.
        objects: Object id -> bytes.
    """

    message: Message
    tree: ObjectTree
    objects: dict[str, bytes] = field(default_factory=dict)


def content_reply(request: Message, parcel: Parcel) -> Outgoing:
    """The runner's content, which is known to the last byte, in a message of ours."""
    return _framed(Message(RecordDict(), reply_to=request), parcel)


def error_reply(request: Message, code: str) -> Outgoing:
    """A registered code and nothing else."""
    return _framed(Message(Error(SITE_FAILED, code), reply_to=request), Parcel())


def _framed(message: Message, parcel: Parcel) -> Outgoing:
    """``message`` as Flower would frame it, over content that need not be decoded again."""
    proto = message_to_proto(message)
    body = ProtoMessage(
        metadata=proto.metadata, error=proto.error if message.has_error() else None
    ).SerializeToString(deterministic=True)
    own = frame("Message", (parcel.root,) if parcel.root else (), body)
    own_id = sha256(own).hexdigest()
    message.metadata.__dict__["_message_id"] = own_id
    children = [_tree(parcel.root, parcel.children)] if parcel.root else []
    return Outgoing(
        message, ObjectTree(object_id=own_id, children=children), {**parcel.objects, own_id: own}
    )


def _tree(object_id: str, children: dict[str, tuple[str, ...]]) -> ObjectTree:
    """At most four deep: content, record, array, chunk."""
    return ObjectTree(
        object_id=object_id, children=[_tree(child, children) for child in children[object_id]]
    )
