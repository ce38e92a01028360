"""The same ServerApp and ClientApp in one process: no port, no key, no Ray.

Flower's Grid is an abstract class and both apps are plain callables. Every message still takes the
trip through Flower's serialisation, so that whatever does not survive the wire does not survive
here either; and every file takes the trip through the depot, the courier's store of models, the
gate's checks and the outbox. What is missing is the line between them.

What it relies on in flwr 1.41 is held by tests/deploy/test_local_grid.py.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from typing_extensions import override

from stillroom.deploy.local_site import LocalSite
from stillroom.server.app import app as server_app
from stillroom.server.consents import receive
from stillroom.server.depot import Depot
from stillroom.server.logbook import Logbook, from_settings
from stillroom.server.store.registry import Registry

RUN_ID = 1
FIRST_NODE = 100


@dataclass
class LocalGrid(Grid):
    """A Grid whose sites answer at once, one after the other.

    Args:
        sites: Site name -> its site.toml.
        depot: Where files wait, on the server's side.
        registry: Where a site's consent and its withdrawal are told, as its courier would.
        book: The consortium's log, which sites look at and vouch for.
        stop: Set from outside to make every further message fail.
    """

    sites: Mapping[str, Path]
    depot: Depot
    registry: Path | None = None
    book: Logbook | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        # Flower builds messages only inside a task; this process is the task.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1
        self._replies: dict[str, Message] = {}
        self._names = dict(enumerate(sorted(self.sites), FIRST_NODE))
        self._sites = {
            node: LocalSite.open(
                Context(RUN_ID, node, {}, RecordDict(), {}),
                self.sites[name],
                self.depot,
                self.book,
            )
            for node, name in self._names.items()
        }

    @override
    def set_run(self, run: Run) -> None:
        raise NotImplementedError("a local grid has one run")

    @property
    @override
    def run(self) -> Run:
        return Run.create_empty(RUN_ID)

    @override
    def create_message(  # Flower's signature
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    @override
    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    @override
    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=name) for node, name in self._names.items()]

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message's site and keep its reply."""
        names = []
        for message in messages:
            if self.stop.is_set():
                raise KeyboardInterrupt
            message.metadata.__dict__["_message_id"] = name = message.object_id
            message.metadata.__dict__["_run_id"] = RUN_ID
            arrived = _through_wire(message)
            arrived.metadata.__dict__["_message_id"] = name
            site = self._sites[message.metadata.dst_node_id]
            self._replies[name] = _through_wire(site.answer(arrived))
            self._tell(site)
            names.append(name)
        return names

    def _tell(self, site: LocalSite) -> None:
        """What has changed of a site's consent meanwhile; a withdrawal is not asked again then."""
        consent = site.site.agreement.consent
        if self.registry is not None and consent is not None:
            note = None if self.book is None else self.book.note
            with Registry(self.registry, note=note) as registry:
                for record in consent.book.all():
                    receive(site.site.config.site, record, registry)

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def run_in_process(  # a study, where it is recorded, who takes part, who consented, when to stop
    study: Path,
    run: Path,
    sites: Mapping[str, Path],
    *,
    depot: Path | None = None,
    registry: Path | None = None,
    log: Mapping[str, str] | None = None,
    stop: threading.Event,
) -> None:
    """Run a prepared study over ``sites`` (name -> site.toml), recording into folder ``run``.

    Files wait in ``depot``, or in a folder of that name in ``run``. With a ``registry``, sites
    without consent in it are left out. ``log`` says where the consortium's log is
    (``logbook.KEYS``).

    Raises:
        StillroomError: As the study run does.
    """
    depot = depot or run / "depot"
    grid = LocalGrid(sites, Depot(depot), registry, from_settings(log or {}), stop)
    context = Context(
        run_id=RUN_ID,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config={
            "study": str(study),
            "run": str(run),
            "sites": ",".join(sorted(sites)),
            "depot": str(depot),
            "poll-s": 0.01,
            "connect-s": 0.0,
            "registry": "" if registry is None else str(registry),
            **(log or {}),
        },
    )
    server_app(grid, context)


def _through_wire(message: Message) -> Message:
    contents = {name: obj.deflate() for name, obj in get_all_nested_objects(message).items()}
    copy = inflate_object_from_contents(message.object_id, contents)
    if not isinstance(copy, Message):
        raise TypeError("Flower inflated something that is not a message")
    return copy
