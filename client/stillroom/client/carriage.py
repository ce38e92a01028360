"""What the courier does with one message: bring it, have it done, send what the gate lets out."""

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.inflatable.inflatable_utils import (
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeState

from stillroom.client.gate import Gate, Request
from stillroom.client.outgoing import Outgoing
from stillroom.common.errors import ContractError
from stillroom.common.parcel import SMALL

log = logging.getLogger(__name__)

EMPTY_FAB = Fab("", b"", {})
LOOK_S = 0.02
"""Pause between two looks at what the runner delivers."""
DELIVERY_S = 60.0
"""Longest wait for one object that the runner has announced."""


class RunEnded(Exception):  # noqa: N818  # it says what happened, it is no failure of ours
    """The server says that a message's run is over; the message is dropped."""


class Stopped(Exception):  # noqa: N818  # likewise
    """We were told to stop while waiting."""


class Expired(Exception):  # noqa: N818  # likewise
    """Nobody waits for the answer any more."""


class Line(Protocol):
    """The connection to the consortium, as ``courier.Edge`` has it."""

    node: Node

    def pull(self) -> tuple[Message, ObjectTree] | None:
        """The next message without its content; None when there is none."""
        ...

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        """One object of a message."""
        ...

    def confirm(self, run_id: int, message_id: str) -> None:
        """The message and all its objects have arrived."""
        ...

    def push(self, reply: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        """Announce a reply; returns the objects the server does not hold yet, and its session."""
        ...

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """Upload one object of a reply."""
        ...


@dataclass(slots=True)
class Carriage:
    """The way of every message, in and out.

    Attributes:
        edge: The connection.
        state: Where the runner finds its task.
        store: Where objects lie, both the server's and the runner's; it proves their names.
        gate: Decides, and writes the ledger.
        stop: Set when the courier should end.
    """

    edge: Line
    state: NodeState
    store: ObjectStore
    gate: Gate
    stop: threading.Event

    def carry_one(self) -> bool:
        """Fetch one message, wait for the runner's reply, send it; False when there was none.

        Raises:
            Stopped: While waiting.
            ResourceError: STR-503, the ledger's disk failed; nothing was sent then.
        """
        pulled = self.edge.pull()
        if pulled is None:
            return False
        message, tree = pulled
        started = time.monotonic()
        try:
            admitted = self._receive(message, tree)
            if isinstance(admitted, Outgoing):
                self._send(admitted, started)
            else:
                self._have_done(admitted, started)
        except RunEnded:
            log.info("courier.run_ended")
        return True

    def _receive(self, message: Message, tree: ObjectTree) -> Request | Outgoing:
        """Bring a message and ask the gate; only what it admits is shown to the runner."""
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        try:
            self._bring(run_id, tree)
            admitted = self.gate.admit(message, self._stored)
        except ContractError as error:
            admitted = self.gate.turn_away(message, error.code)
        except (ValueError, NoObjectInStoreError, UnexpectedObjectContentError):
            # An object that is not what its name or its frame says.
            admitted = self.gate.turn_away(message, "STR-300")
        if isinstance(admitted, Request):
            self._hand_over(message)
        else:
            self.store.delete(message_id)
        self.edge.confirm(run_id, message_id)
        return admitted

    def _bring(self, run_id: int, tree: ObjectTree) -> None:
        """Every object of a message into the store, but no more than a task of this study has."""
        left, lock = self.gate.most_bytes + 8 * SMALL, threading.Lock()

        def pull(object_id: str) -> bytes:
            nonlocal left
            content = self.edge.pull_object(run_id, object_id)
            with lock:
                left -= len(content)
            if left < 0:
                raise ContractError(
                    "A task is larger than any of its study.",
                    fix="Ask the operator which study is running.",
                    code="STR-301",
                )
            return content

        contents = pull_objects(
            self.store.preregister(run_id, tree),
            pull_object_fn=pull,
            # A task is announced before its objects are uploaded; Flower would look again after
            # one second at the earliest.
            initial_backoff=0.05,
            backoff_cap=1.0,
        )
        for name in list(contents):
            self.store.put(name, contents.pop(name))

    def _hand_over(self, message: Message) -> None:
        """Put a message where the runner finds it, with a run that carries no code."""
        run_id, state = message.metadata.run_id, self.state
        if state.get_run(run_id) is None:
            run = Run.create_empty(run_id)
            run.fab_hash = state.store_fab(EMPTY_FAB)
            run.series_id = run_id
            context = Context(
                run_id=run_id,
                node_id=self.edge.node.node_id,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            state.set_run_series_context(run_id, context)
            state.store_run(run)
        state.store_message(message)
        # The task is what the runner takes; it comes last, so that a runner never finds half a
        # message.
        state.create_task(
            task_type=TaskType.CLIENT_APP, run_id=run_id, fab_hash=state.store_fab(EMPTY_FAB)
        )

    def _have_done(self, request: Request, started: float) -> None:
        """Wait for the runner's reply, have the gate judge it, and send what comes of it."""
        try:
            reply_id = self._await_reply(request)
        except Expired:
            self.gate.withhold(request)
            return
        try:
            # Nothing of the reply has left while this looks at all of it.
            outgoing = self.gate.release(request, reply_id, partial(self._arriving, request))
            # From here on the ledger holds it, on the disk; now, and not before, it may leave.
            self._send(outgoing, started)
        except (Expired, RunEnded):
            self.gate.withhold(request)
        finally:
            self.store.delete(reply_id)

    def _await_reply(self, request: Request) -> str:
        """Object id of the runner's reply; any other reply is dropped and noted."""
        while True:
            for reply in self.state.get_messages_legacy(is_reply=True):
                answered, own = reply.metadata.reply_to_message_id, reply.metadata.message_id
                self.state.delete_messages(message_ids=[own])
                if answered == request.message.metadata.message_id:
                    return own
                self.store.delete(own)
                self.gate.withhold(request, "STR-307")
            self._wait(request, 0.05)

    def _arriving(self, request: Request, object_id: str) -> bytes:
        """An object of the runner's reply, waited for when it was announced and is on its way."""
        patience = time.monotonic() + DELIVERY_S
        while (content := self.store.get(object_id)) == b"":
            self._wait(request, LOOK_S)
            if time.monotonic() > patience:
                # The runner has gone in the middle of its reply; there will be no end to it.
                raise Expired
        if content is None:
            raise KeyError("an object was never announced")
        return content

    def _stored(self, object_id: str) -> bytes:
        content = self.store.get(object_id)
        if not content:
            raise KeyError("an object is not there")
        return content

    def _wait(self, request: Request, seconds: float) -> None:
        asked = request.message.metadata
        if self.stop.wait(seconds):
            raise Stopped
        if time.time() > asked.created_at + asked.ttl:
            raise Expired

    def _send(self, outgoing: Outgoing, started: float) -> None:
        """Everything that leaves this site leaves here, after the gate, and only here."""
        run_id = outgoing.message.metadata.run_id
        wanted, session = self.edge.push(
            outgoing.message, outgoing.tree, time.monotonic() - started
        )
        push_object_contents_from_iterable(
            ((name, data) for name, data in outgoing.objects.items() if name in wanted),
            push_object_fn=lambda name, data: self.edge.push_object(run_id, session, name, data),
        )
