"""What somebody could try to get out of, or into, a site: cases as data, and the wire they meet.

``attempt`` runs one case through the courier's own code: the edge is replaced by one that counts
every byte it is given, everything else (gate, ledger, object store, node state) is real. ``server``
is what the server makes of the same bytes when they arrive all the same.
"""

import json
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import MetricRecord as ProtoMetricRecord
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate import NodeStateFactory

from stillroom.client.carriage import Carriage, Stopped
from stillroom.client.gate import Gate
from stillroom.client.ledger import Ledger, Line, read
from stillroom.common.errors import CODES, StillroomError, TrustError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    MESSAGE_TYPES,
    ROUND,
    STAGE,
    Reply,
    Task,
    pack_reply,
    pack_task,
    read_reply,
)
from stillroom.common.parcel import CHUNK, frame, split
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise
from stillroom.server.arrivals import UNREADABLE, bound_arrays
from stillroom.server.rounds.outcome import Answer, judge

PATIENT = "DOE^JANE^1957-03-02"
SHAPES = {"trunk.weight": (64, 3, 8), "trunk.bias": (64,), "head.vessels.weight": (2, 64)}
GOOD = {
    name: np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    for name, shape in SHAPES.items()
}
SAMPLES = {"trunk": 4, "head.vessels": 4}
METRICS = {"train.loss": 0.5, "train.cases": 4, "train.seconds": 1.5}
CT = np.arange(512 * 64, dtype=np.int16).reshape(512, 64)

Objects = dict[str, bytes]


def study() -> PreparedStudy:
    """Two teachers and a student, all of the same three tensors."""
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=n, shape=s, dtype="float32", group=n.rsplit(".", 1)[0])
            for n, s in SHAPES.items()
        )
    )
    teacher = {"arch": "dynunet", "channels": [4, 8]}
    parsed = Study.parse(
        {
            "study": {"name": "smuggling", "min_cohort": 3, "max_update_norm": 1000.0},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["vessel"]}},
            "model": {"teacher": teacher, "student": teacher},
            "stage": [
                {"name": "teach-a", "recipe": "teach", "label": "vessels", "rounds": 3},
                {"name": "apply", "recipe": "pseudolabel", "teachers": ["teach-a"]},
                {"name": "student", "recipe": "distil", "rounds": 3},
            ],
        }
    )
    stage = PreparedStage(initial_sha256="0" * 64, manifest=manifest)
    return PreparedStudy(study=parsed, stages={"teach-a": stage, "student": stage})


PREPARED = study()


def ask(kind: str = ROUND, stage: str = "student", number: int = 2) -> Task:
    """What the server rightly asks for."""
    if kind == INVENTORY:
        return Task(PREPARED.digest)
    if kind == LABEL:
        return Task(PREPARED.digest, "apply", 1, teachers={"teach-a": GOOD})
    return Task(PREPARED.digest, stage, number, GOOD)


@dataclass(frozen=True)
class Case:
    """One attempt.

    Attributes:
        name: As it stands in the table.
        reply: Makes the runner's message from the request it was given.
        forge: Changes the objects of that message, by their kind.
        content: Makes the server's message in place of an honest one.
        message_type: Of the server's message.
        codes: With which the gate refuses; the ledger holds it.
        server: With which the server refuses the same bytes; empty where it never sees them.
        sends: The server is told the code (nobody waits for a stray reply).
    """

    name: str
    codes: tuple[str, ...]
    server: tuple[str, ...] = ()
    kind: str = ROUND
    reply: Callable[[Message], Message] | None = None
    forge: Callable[[str, bytes], bytes] | None = None
    content: Callable[[], RecordDict] | None = None
    message_type: str = ""
    damage: Callable[[str, bytes], bytes] | None = None
    permit: Callable[[], None] | None = None
    stray: bool = False


# -- the wire and the runner --------------------------------------------------------------------


@dataclass
class Wire:
    """The edge: hands out one message, and counts what it is given."""

    message: Message
    contents: Objects
    tree: ObjectTree
    runner: Callable[[Message], None]
    stop: threading.Event
    node: Node = field(default_factory=lambda: Node(node_id=7))
    pushed: list[Message] = field(default_factory=list)
    objects: Objects = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    def pull(self) -> tuple[Message, ObjectTree]:
        """The one message."""
        proto = message_to_proto(self.message)
        bare = Message(RecordDict(), 7, self.message.metadata.message_type)
        bare.__dict__["_metadata"] = self.message.metadata
        assert proto.metadata.message_id
        return bare, self.tree

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        """One object of it."""
        return self.contents[object_id]

    def confirm(self, run_id: int, message_id: str) -> None:
        """The courier has it: now the runner would take it."""
        self.log.append(("confirm", message_id))
        self.runner(self.message)

    def push(self, reply: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        """A reply is announced."""
        self.log.append(("push", reply.metadata.message_id))
        self.pushed.append(reply)
        return ids(tree), "session"

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """A part of it arrives."""
        self.log.append(("object", object_id))
        self.objects[object_id] = content

    @property
    def payload(self) -> int:
        """Bytes that left and are not the frame of an error with a registered code."""
        own = {m.metadata.message_id for m in self.pushed if m.has_error()}
        extra = sum(
            len(m.error.reason)
            for m in self.pushed
            if m.has_error() and m.error.reason not in CODES
        )
        return extra + sum(len(data) for name, data in self.objects.items() if name not in own)


def ids(tree: ObjectTree) -> set[str]:
    """Every object id of a tree."""
    return {tree.object_id}.union(*(ids(child) for child in tree.children))


def deflated(message: Message) -> Objects:
    """A message as the objects Flower moves, children before parents."""
    message.metadata.__dict__["_message_id"] = ""
    objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    message.metadata.__dict__["_message_id"] = message.object_id
    return objects


def forged(objects: Objects, forge: Callable[[str, bytes], bytes]) -> Objects:
    """The same tree with some objects changed, and every name made right again."""
    names: dict[str, str] = {}
    result: Objects = {}
    for old, content in objects.items():
        for before, after in names.items():
            content = content.replace(before.encode(), after.encode())
        # Lengths in frames do not change with names: all are 64 letters.
        content = forge(content[: content.find(b" ")].decode(), content)
        names[old] = sha256(content).hexdigest()
        result[names[old]] = content
    return result


def tree_of(objects: Objects, root: str) -> ObjectTree:
    """The tree the objects' frames speak of."""
    head = objects[root][: objects[root].find(b"\x00")].split(b" ")
    children = [c.decode() for c in head[1].split(b",") if c and c.decode() in objects]
    return ObjectTree(object_id=root, children=[tree_of(objects, child) for child in children])


@dataclass
class Result:
    """What came of an attempt."""

    payload: int
    code: str
    lines: list[Line]
    server: str | None
    wire: Wire


def attempt(case: Case, folder: Path, *, ledger: Ledger | None = None) -> Result:
    """Run one case through the courier, and then through the server."""
    content = (case.content or (lambda: pack_task(ask(case.kind))))()
    message = Message(
        content, 7, case.message_type or MESSAGE_TYPES[case.kind], ttl=3.0, group_id="2"
    )
    objects = deflated(message)
    tree = tree_of(objects, message.metadata.message_id)
    if case.damage is not None:
        objects = {
            name: case.damage(data[: data.find(b" ")].decode(), data)
            for name, data in objects.items()
        }
    factory, stop = ObjectStoreFactory(), threading.Event()
    states = NodeStateFactory(objectstore_factory=factory)
    state, store = states.state(), factory.store()
    replies: list[Objects] = []

    def runner(request: Message) -> None:
        if not state.get_tasks():
            return
        reply = (case.reply or honest)(request)
        parts = deflated(reply)
        if case.forge is not None:
            parts = forged(parts, case.forge)
        replies.append(parts)
        root = list(parts)[-1]
        reply.metadata.__dict__["_message_id"] = root
        bare = Message(RecordDict(), reply_to=request)
        bare.__dict__["_metadata"] = reply.metadata
        for name in store.preregister(request.metadata.run_id, tree_of(parts, root)):
            store.put(name, parts[name])
        state.store_message(bare)
        if case.stray:
            threading.Timer(0.2, stop.set).start()

    wire = Wire(message, objects, tree, runner, stop)
    own = ledger or Ledger(folder / "ledger.jsonl")
    carriage = Carriage(wire, state, store, Gate(PREPARED, own, case.permit), stop)
    try:
        carriage.carry_one()
    except Stopped:
        assert case.stray
    finally:
        own.close()
    code = wire.pushed[-1].error.reason if wire.pushed and wire.pushed[-1].has_error() else ""
    verdict = arrive(case, replies[0]) if replies and case.server else None
    return Result(wire.payload, code, list(read(own.path)), verdict, wire)


def arrive(case: Case, objects: Objects) -> str:
    """The server's word on a reply: its code, or what it made of it."""
    bound_arrays(PREPARED.study.study)
    try:
        message = inflate_object_from_contents(list(objects)[-1], dict(objects))
        answer = Answer(read_reply(message), None, 1.0)
    except UNREADABLE:
        answer = Answer(None, "STR-300", 1.0)
    except StillroomError as error:
        answer = Answer(None, error.code, 1.0)
    task = ask(case.kind)
    outcome = judge(answer, kind=case.kind, stage=task.stage, prepared=PREPARED, bytes_down=0)
    return outcome.status if outcome.status == "admitted" else outcome.reason[:7]


def honest(request: Message) -> Message:
    """A reply with nothing wrong in it."""
    return Message(pack_reply(Reply(GOOD, SAMPLES, METRICS)), reply_to=request)


# -- what is tried ------------------------------------------------------------------------------


def update(
    weights: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Callable[[Message], Message]:
    """A reply with other weights, counts or numbers."""

    def make(request: Message) -> Message:
        reply = Reply(
            GOOD if weights is None else weights,
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
    """A good reply and one record more."""

    def make(request: Message) -> Message:
        content = pack_reply(Reply(GOOD, SAMPLES, METRICS))
        content[name] = record
        return Message(content, reply_to=request)

    return make


def with_array(array: Array, key: str = "safetensors") -> Callable[[Message], Message]:
    """A good reply whose weights are another array."""
    return with_record("weights", ArrayRecord({key: array}))


def file(data: bytes) -> Array:
    """Bytes that claim to be a safetensors file."""
    return Array("uint8", (len(data),), "safetensors", data)


def rewritten(change: Callable[[bytes], bytes], tail: bytes = b"") -> Array:
    """The good file with another header, its length made right again, and bytes at its end."""
    data = serialise(GOOD)
    size = int.from_bytes(data[:8], "little")
    head = change(data[8 : 8 + size].rstrip(b" "))
    head += b" " * (-len(head) % 8)
    return file(len(head).to_bytes(8, "little") + head + data[8 + size :] + tail)


def many_tensors(count: int = 1_000_000) -> Array:
    """A header of a million names, one byte each."""
    entries = b",".join(
        b'"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}' % (n, n, n + 1)
        for n in range(count)
    )
    head = b"{" + entries + b"}"
    return file(len(head).to_bytes(8, "little") + head + bytes(count))


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
    return json.dumps(
        layout | {"shape": [CHUNK * 100_000], "arraychunk_ids": [0] * 100_000}
    ).encode()


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


def _replies() -> list[Case]:
    def weights(name: str, value: Mapping[str, Any], code: str) -> Case:
        return Case(name, (code,), (code,), reply=update(weights=value))

    def number(name: str, kind: str = ROUND, **metrics: Any) -> Case:
        given = {key.replace("_", "."): value for key, value in metrics.items()}
        made = numbers(**metrics) if kind != ROUND else update(metrics={**METRICS, **given})
        return Case(name, ("STR-304",), ("STR-304",), kind=kind, reply=made)

    def samples(name: str, value: Mapping[str, Any]) -> Case:
        return Case(name, ("STR-304",), ("STR-304",), reply=update(samples=value))

    broken = ("STR-300",)
    patient = Array("int16", CT.shape, "numpy.ndarray", CT.tobytes())
    return [
        weights("extra tensor holding a CT slice", {**GOOD, "scan": CT}, "STR-301"),
        weights("CT slice in place of a tensor", swapped("trunk.weight", CT), "STR-302"),
        weights(
            "right name, other shape", swapped("trunk.bias", GOOD["trunk.bias"][:5]), "STR-302"
        ),
        weights("broadcastable shape", swapped("trunk.bias", GOOD["trunk.bias"][None]), "STR-302"),
        weights("float64", swapped("trunk.bias", np.zeros(64, np.float64)), "STR-302"),
        weights("same bytes as int32", swapped("trunk.bias", np.zeros(64, np.int32)), "STR-302"),
        weights("NaN", filled(np.nan), "STR-303"),
        weights("infinity", filled(-np.inf), "STR-303"),
        weights("1e30", filled(1e30), "STR-303"),
        weights("just over the norm bound", filled(1001.0), "STR-303"),
        weights("flood of subnormal numbers", filled(1e-41, 600), "STR-303"),
        weights("missing tensor", {n: v for n, v in GOOD.items() if "bias" not in n}, "STR-301"),
        weights("no tensor at all", {}, "STR-301"),
        weights(
            "renamed tensor",
            {PATIENT if n == "trunk.bias" else n: v for n, v in GOOD.items()},
            "STR-301",
        ),
        weights("oversize", {**GOOD, "scan": np.zeros((8, 512, 512), np.int16)}, "STR-301"),
        Case("10^6 tiny tensors", ("STR-301",), broken, reply=with_array(many_tensors())),
        Case(
            "text in the file's metadata",
            broken,
            broken,
            reply=with_array(
                rewritten(lambda h: b'{"__metadata__":{"p":"%s"},' % PATIENT.encode() + h[1:])
            ),
        ),
        Case(
            "white space in the file's header",
            broken,
            broken,
            reply=with_array(rewritten(lambda h: h.replace(b",", b", "))),
        ),
        Case(
            "one name twice in the file's header",
            broken,
            broken,
            reply=with_array(
                rewritten(
                    lambda h: h[:-1] + b',"trunk.bias":' + h.split(b'"trunk.bias":')[1][:60] + b"}"
                )
            ),
        ),
        Case(
            "bytes after the last tensor",
            broken,
            broken,
            reply=with_array(rewritten(lambda h: h, CT.tobytes()[:64])),
        ),
        Case("pickled array", broken, broken, reply=with_array(pickled())),
        Case("CT slice as an array of its own", broken, broken, reply=with_array(patient, "scan")),
        Case(
            "second record of arrays",
            broken,
            broken,
            reply=with_record("scan", ArrayRecord({"safetensors": file(serialise(GOOD))})),
        ),
        Case(
            "string in metrics",
            broken,
            broken,
            reply=with_record("metrics", ConfigRecord({"train.loss": PATIENT})),
        ),
        Case(
            "nested record",
            broken,
            broken,
            reply=with_record("more", ConfigRecord({"json": json.dumps({"p": PATIENT})})),
        ),
        Case(
            "list in metrics",
            ("STR-304",),
            ("STR-304",),
            reply=with_record("metrics", MetricRecord({"train.loss": [1.0, 57.0]})),
        ),
        number("patient name as a metric's key", **{PATIENT: 1.0}),
        number("not a number as a metric", train_loss=float("nan")),
        number("huge number as a metric", train_loss=1.957e300),
        number("another stage's metric", eval_cases=5),
        number("count below the minimum cohort", INVENTORY, inventory_cases=2),
        number("fraction of a case", INVENTORY, inventory_cases=1957.0302),
        number("negative count", LABEL, **{"pseudo.vessels.written": -4}),
        number("training numbers in an inventory", INVENTORY, train_loss=0.1),
        Case(
            "weights in an inventory",
            ("STR-301",),
            ("STR-301",),
            kind=INVENTORY,
            reply=update(metrics={"inventory.cases": 4}),
        ),
        Case(
            "weights after labelling",
            ("STR-301",),
            ("STR-301",),
            kind=LABEL,
            reply=update(metrics={}),
        ),
        Case(
            "weights with scores", ("STR-301",), ("STR-301",), kind=STAGE, reply=update(metrics={})
        ),
        Case(
            "no weights where they were asked for",
            ("STR-301",),
            ("STR-301",),
            reply=numbers(train_cases=4),
        ),
        samples("sample count 0", {"trunk": 0, "head.vessels": 0}),
        samples("sample count negative", {"trunk": -4, "head.vessels": 4}),
        samples("sample count 1e9", {"trunk": 10**9, "head.vessels": 4}),
        samples("sample count with a fraction", {"trunk": 4.5, "head.vessels": 4}),
        samples("sample count of an unknown group", {"trunk": 4, PATIENT: 4}),
        Case("exception text with a name", broken, broken, reply=error(f"KeyError: {PATIENT}")),
        Case("code nobody registered", broken, broken, reply=error("STR-999")),
        Case("code with a name behind it", broken, broken, reply=error(f"STR-401 {PATIENT}")),
        # The routing below is Flower's on the server's side: these never reach the study.
        Case("other run's round", ("STR-307",), reply=meta(run_id=99)),
        Case("answer to another node", ("STR-307",), reply=meta(dst_node_id=12345)),
        Case("answer of another type", ("STR-307",), reply=meta(message_type="query")),
        Case("text in the group id", ("STR-307",), reply=meta(group_id=PATIENT)),
        Case("replay: an answer nobody asked for", ("STR-307",), reply=old_reply, stray=True),
        Case("zip bomb: one chunk 10^5 times", ("STR-301",), broken, forge=on("Array", body(bomb))),
        Case("unknown field in a message", broken, forge=on("Message", body(unknown_field))),
        Case("unknown field in a record", broken, forge=on("MetricRecord", body(unknown_field))),
        Case(
            "content inside the message's frame", broken, forge=on("Message", body(hidden_message))
        ),
        Case("metric twice", broken, forge=on("MetricRecord", body(twice))),
        Case(
            "white space between records",
            broken,
            forge=on("RecordDict", body(lambda b: b.replace(b", ", b",  "))),
        ),
        Case("length with a sign", broken, forge=on("ArrayChunk", plus_length)),
        Case("array of arrays", broken, broken, forge=on("Array", body(lambda b: b"[" * 50_000))),
        Case("array without a length", broken, broken, forge=on("Array", body(lambda _: b"{}"))),
    ]


def _requests() -> list[Case]:
    """What comes from the server and never reaches the runner."""
    code = ConfigRecord({"content": b"PK\x03\x04" + b"import os"})
    other = {"trunk.weight": np.zeros(3, np.float32)}
    broken, outside, tensors = ("STR-300",), ("STR-205",), ("STR-301",)
    study_digest = PREPARED.digest
    return [
        Case("control message from the fleet side", broken, message_type="system.shutdown"),
        Case("unknown message type", broken, message_type="train.upload"),
        Case("message type without an action", broken, message_type="train"),
        Case("FAB with code", broken, content=task_and("fab", code)),
        Case("run config with a path", broken, content=task_with(data="/data/ct")),
        Case("path in place of a round", broken, content=task_with(round="/data/ct")),
        Case("wrong study digest", outside, content=task_with(study="0" * 64)),
        Case("unknown stage", outside, content=task_with(stage="exfiltrate")),
        Case("stage of another recipe", outside, content=task_with(stage="apply", round=1)),
        Case("round beyond the budget", outside, content=task_with(round=4)),
        Case("round 0", outside, content=task_with(round=0)),
        Case("empty message", broken, content=RecordDict),
        Case(
            "task without weights",
            outside,
            content=lambda: pack_task(Task(study_digest, "student", 1)),
        ),
        Case(
            "task with other tensors",
            tensors,
            content=lambda: pack_task(Task(study_digest, "student", 1, other)),
        ),
        Case(
            "teacher the stage does not have",
            tensors,
            content=lambda: pack_task(Task(study_digest, "student", 1, GOOD, {"teach-a": GOOD})),
        ),
        Case(
            "task larger than the study",
            tensors,
            content=lambda: pack_task(
                Task(study_digest, "student", 1, {**GOOD, "more": np.zeros(3 << 20, np.float32)})
            ),
        ),
        Case("numbers in a task", broken, content=task_and("metrics", MetricRecord({"a": 1}))),
        Case(
            "object that is not what its name says",
            broken,
            damage=on("ArrayChunk", lambda b: b + b"x"),
        ),
        Case("task without consent", ("STR-208",), permit=no_consent),
    ]


def withdrawn_meanwhile() -> Case:
    """Consent is there when the task comes and gone when its answer leaves."""
    asked: list[int] = []

    def permit() -> None:
        asked.append(1)
        if len(asked) > 1:
            no_consent()

    return Case("update without consent", ("STR-208",), permit=permit)


CASES = [*_replies(), *_requests(), withdrawn_meanwhile()]
