"""One attempt to get something out of, or into, a site: the wire it meets, and what came of it.

``attempt`` runs a case through the courier's own code: the edge is replaced by one that counts
every byte it is given, everything else (gate, outbox, ledger, exchange folder, object store, node
state) is real. ``arrive`` is what the server makes of the same message and the same file when they
reach it all the same.
"""

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate import NodeStateFactory

from stillroom.client.breaks import Stopped
from stillroom.client.carriage import Carriage
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.gate import Gate
from stillroom.client.ledger import Ledger, Line, read
from stillroom.client.models import Models
from stillroom.client.outbox import Outbox
from stillroom.common.errors import CODES, ContractError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    MESSAGE_TYPES,
    ROUND,
    ModelRef,
    Reply,
    Task,
    UpdateRef,
    pack_reply,
    pack_task,
    read_reply,
)
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise
from stillroom.server.arrivals import UNREADABLE, refuse_arrays
from stillroom.server.rounds.outcome import Answer, judge

PATIENT = "DOE^JANE^1957-03-02"
SHAPES = {"trunk.weight": (64, 3, 8), "trunk.bias": (64,), "head.vessels.weight": (2, 64)}
GOOD = {
    name: np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    for name, shape in SHAPES.items()
}
BASE = {name: (value * np.float32(0.9)).astype(np.float32) for name, value in GOOD.items()}
"""The global model that goes with a task."""
BASE_FILE, GOOD_FILE = serialise(BASE), serialise(GOOD)
SAMPLES = {"trunk": 4, "head.vessels": 4}
METRICS = {"train.loss": 0.5, "train.cases": 4, "train.seconds": 1.5}
CT = np.arange(512 * 64, dtype=np.int16).reshape(512, 64)

Objects = dict[str, bytes]


def digest(data: bytes) -> str:
    """The name of a file."""
    return sha256(data).hexdigest()


def study(
    encoding: str = "fp32",
    *,
    rounds: int = 3,
    taught: tuple[int, str] = (3, "fp32"),
    quorum: Mapping[str, float] | None = None,
) -> PreparedStudy:
    """A teacher and a student, both of the same three tensors.

    Args:
        encoding: Of the student's updates.
        rounds: Of the student.
        taught: Rounds and encoding of the teacher.
        quorum: The study's.
    """
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=n, shape=s, dtype="float32", group=n.rsplit(".", 1)[0])
            for n, s in SHAPES.items()
        )
    )
    teacher = {"arch": "dynunet", "channels": [4, 8]}
    parsed = Study.parse(
        {
            "study": {
                "name": "smuggling",
                "min_cohort": 3,
                "max_update_norm": 1000.0,
                "quorum": dict(quorum or {}),
            },
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["vessel"]}},
            "model": {"teacher": teacher, "student": teacher},
            "stage": [
                {
                    "name": "teach-a",
                    "recipe": "teach",
                    "label": "vessels",
                    "rounds": taught[0],
                    "exchange": {"encoding": taught[1]},
                },
                {"name": "apply", "recipe": "pseudolabel", "teachers": ["teach-a"]},
                {
                    "name": "student",
                    "recipe": "distil",
                    "rounds": rounds,
                    "exchange": {"encoding": encoding},
                },
            ],
        }
    )
    stage = PreparedStage(initial_sha256=MODEL.sha256, manifest=manifest)
    return PreparedStudy(study=parsed, stages={"teach-a": stage, "student": stage})


MODEL = ModelRef(digest(BASE_FILE), len(BASE_FILE))
PREPARED = study()
"""A live consortium (``live``) puts its own study here before the cases are made."""


def ask(kind: str = ROUND, number: int = 2, prepared: PreparedStudy = PREPARED) -> Task:
    """What the server rightly asks for; where one is live, what it is about to ask for."""
    if DESK.asked is not None:
        return DESK.asked
    if kind == INVENTORY:
        return Task(prepared.digest)
    if kind == LABEL:
        return Task(prepared.digest, "apply", 1, {"teach-a": MODEL})
    return Task(prepared.digest, "student", number, {"student": MODEL})


@dataclass
class Desk:
    """Where the runner of the attempt under way keeps its files, and what it wrote there.

    Attributes:
        exchange: The folder it shares with its courier.
        written: Name -> bytes.
        base: Digest of the model that it was sent.
        asked: What a live server asks for; None where there is none.
    """

    exchange: ExchangeFolder = field(default_factory=lambda: ExchangeFolder(Path()))
    written: Objects = field(default_factory=dict)
    base: str = MODEL.sha256
    asked: Task | None = None

    def deliver(self, data: bytes, *, base: str = "", name: str = "") -> UpdateRef:
        """Write a file as the runner does; ``name`` in place of its digest."""
        base = base or self.base
        name = name or digest(data)
        self.exchange.update(name).write_bytes(data)
        self.written[name] = data
        return UpdateRef("fp32", base, name, len(data))


DESK = Desk()


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
    served: Callable[[bytes], bytes] | None = None
    permit: Callable[[], None] | None = None
    stray: bool = False
    prepared: PreparedStudy = PREPARED


# -- the wire and the runner --------------------------------------------------------------------


@dataclass
class Wire:
    """The edge: hands out one message, and counts what it is given."""

    message: Message
    contents: Objects
    tree: ObjectTree
    runner: Callable[[Message], None]
    stop: threading.Event
    files: Objects = field(default_factory=dict)
    node: Node = field(default_factory=lambda: Node(node_id=7))
    sent: Objects = field(default_factory=dict)
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

    def fetch(self, sha256: str, nbytes: int, into: Path) -> int:
        """A file that goes with the task."""
        data = self.files[sha256]
        if digest(data) != sha256 or len(data) != nbytes:
            raise ContractError("It is another file.", fix="Ask.", code="STR-311")
        into.write_bytes(data)
        return len(data)

    def send(self, sha256: str, path: Path, nbytes: int) -> int:
        """A file leaves."""
        self.log.append(("file", sha256))
        self.sent[sha256] = path.read_bytes()
        return nbytes

    @property
    def payload(self) -> int:
        """Bytes that left and are not the frame of an error with a registered code."""
        own = {m.metadata.message_id for m in self.pushed if m.has_error()}
        extra = sum(
            len(m.error.reason)
            for m in self.pushed
            if m.has_error() and m.error.reason not in CODES
        )
        files = sum(map(len, self.sent.values()))
        return (
            extra + files + sum(len(data) for name, data in self.objects.items() if name not in own)
        )


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
    for old, original in objects.items():
        content = original
        for before, after in names.items():
            content = content.replace(before.encode(), after.encode())
        # Lengths in frames do not change with names: all are 64 letters.
        changed = forge(content[: content.find(b" ")].decode(), content)
        names[old] = sha256(changed).hexdigest()
        result[names[old]] = changed
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
    left_behind: list[str]


def attempt(
    case: Case, folder: Path, *, ledger: Ledger | None = None, kind_of_wire: type[Wire] = Wire
) -> Result:
    """Run one case through the courier, and then through the server."""
    content = (case.content or (lambda: pack_task(ask(case.kind, prepared=case.prepared))))()
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
    DESK.exchange, DESK.written = ExchangeFolder(folder / "exchange").prepare(), {}

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

    served = (case.served or (lambda data: data))(BASE_FILE)
    files = {MODEL.sha256: served, digest(served): served}
    wire = kind_of_wire(message, objects, tree, runner, stop, files)
    own = ledger or Ledger(folder / "ledger.jsonl")
    outbox = Outbox.below(folder / "courier", DESK.exchange, case.prepared)
    carriage = Carriage(
        edge=wire,
        state=state,
        store=store,
        gate=Gate(case.prepared, own, outbox, case.permit),
        models=Models(DESK.exchange, case.prepared, folder, wire.fetch, folder / "models.json"),
        send=wire.send,
        stop=stop,
    )
    try:
        carriage.carry_one()
    except Stopped:
        assert case.stray
    finally:
        own.close()
    code = wire.pushed[-1].error.reason if wire.pushed and wire.pushed[-1].has_error() else ""
    verdict = arrive(case, replies[0]) if replies and case.server else None
    behind = [path.name for path in outbox.folder.rglob("*") if path.is_file()]
    return Result(wire.payload, code, list(read(own.path)), verdict, wire, behind)


def arrive(case: Case, objects: Objects) -> str:
    """The server's word on the runner's own message and file: its code, or what it made of them."""
    refuse_arrays()
    try:
        message = inflate_object_from_contents(list(objects)[-1], dict(objects))
        answer = Answer(read_reply(message), None, 1.0)
    except UNREADABLE:
        answer = Answer(None, "STR-300", 1.0)
    except StillroomError as error:
        answer = Answer(None, error.code, 1.0)

    def arrived(update: UpdateRef) -> io.BytesIO | None:
        data = DESK.written.get(update.sha256)
        # The edge keeps no file under a name that is not its own.
        return None if data is None or digest(data) != update.sha256 else io.BytesIO(data)

    outcome = judge(
        answer,
        kind=case.kind,
        task=ask(case.kind, prepared=case.prepared),
        prepared=case.prepared,
        arrived=arrived,
    )
    return outcome.status if outcome.status == "admitted" else outcome.reason[:7]


def honest(request: Message) -> Message:
    """A reply with nothing wrong in it."""
    update = DESK.deliver(GOOD_FILE)
    return Message(pack_reply(Reply(update, SAMPLES, METRICS)), reply_to=request)
