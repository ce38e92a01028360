"""What the courier does with one message: bring it, have it done, send what the gate lets out."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supernode.nodestate import NodeState

from stillroom.client.alongside import alongside
from stillroom.client.breaks import Expired, RunEnded, RunnerLost, Stopped
from stillroom.client.gate import Gate, Request
from stillroom.client.handover import Handover, RunnerAway, Work, is_no_answer
from stillroom.client.models import Models
from stillroom.client.outgoing import Outgoing
from stillroom.common.errors import ContractError, ResourceError
from stillroom.common.parcel import MOST_RECORDS, SMALL

log = logging.getLogger(__name__)

LOOK_S = 0.02
"""Pause between two looks at what the runner delivers."""
DELIVERY_S = 60.0
"""Longest wait for one object that the runner has announced."""
ANNOUNCEMENTS = 3
"""How often an answer is announced before it is left to the server to ask once more."""
MOST_OBJECTS_BYTES = 8 * SMALL
"""Of all objects of a task, which holds names and numbers only."""

Send = Callable[[str, Path, int], int]
"""Name, file and bytes: has the consortium hold a file; returns what went over the line."""


class Witness(Protocol):
    """This site's eyes on the consortium's log, as ``witness.Witness`` has them."""

    def look(self) -> None:
        """Look at it now; raises when it does not hold."""
        ...

    def expect(self) -> None:
        """An update has left."""
        ...


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
        models: Brings what goes with a task.
        send: Takes the file that goes with an answer.
        stop: Set when the courier should end.
        runner_grace_s: How long a task waits for a runner that is not running.
        witness: Looks at the consortium's log before a task is taken up; None without one.
        ring: Tells the runner that there is a task.
        paused: Whether this site is; its work is then held back.
    """

    edge: Line
    state: NodeState
    store: ObjectStore
    gate: Gate
    models: Models
    send: Send
    stop: threading.Event
    runner_grace_s: float = 60.0
    witness: Witness | None = None
    ring: Callable[[], None] = lambda: None
    paused: Callable[[], bool] = lambda: False

    def carry_one(self) -> bool:
        """Fetch one message, wait for the runner's reply, send it; False when there was none.

        Raises:
            Stopped: While waiting.
            ResourceError: STR-503, the ledger's disk failed; nothing was sent then.
            TrustError: STR-222, the consortium's log does not hold; nothing was done.
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
                request, task = admitted
                self._have_done(request, task, started)
        except RunEnded:
            log.info("courier.run_ended")
        except ObjectPullError:
            log.info("courier.task_withdrawn")  # the server asks again when it still wants it
        return True

    def _receive(self, message: Message, tree: ObjectTree) -> tuple[Request, Handover] | Outgoing:
        """Bring a message and ask the gate; only what it admits is shown to the runner."""
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        request, objects = Request(message), dict[str, bytes]()
        try:
            objects = self._bring(run_id, tree)
            admitted = self.gate.admit(message, objects.__getitem__)
            if isinstance(admitted, Request):
                request = admitted
                # A log that was rewritten ends all work here, before any is done; models may come.
                with alongside(None if self.witness is None else self.witness.look):
                    # Every file is whole and proven before the runner hears of the task.
                    for stage, ref in request.models.items():
                        self.models.bring(stage, ref)
                    self.models.forget_others(request.models)
        except ContractError as error:
            admitted = self.gate.turn_away(request, error.code)
        except ResourceError as error:
            if error.code != "STR-503":
                raise  # a proxy, say: nothing gets through until somebody has mended it
            admitted = self.gate.turn_away(request, error.code)
        except (ValueError, NoObjectInStoreError, UnexpectedObjectContentError):
            # An object that is not what its name or its frame says.
            admitted = self.gate.turn_away(request, "STR-300")
        if isinstance(admitted, Outgoing):
            self.edge.confirm(run_id, message_id)
            return admitted
        task = Handover(
            Work(message, tree, objects, self.edge.node.node_id),
            self.state,
            self.store,
            self.models.exchange,
            self.runner_grace_s,
            self.ring,
        )
        task.give()
        self.edge.confirm(run_id, message_id)
        return admitted, task

    def _bring(self, run_id: int, tree: ObjectTree) -> dict[str, bytes]:
        """Every object of a message, but no more than a task has."""
        names = [node.object_id for node in iterate_object_tree(tree)]
        if len(names) > MOST_RECORDS + 2:
            raise ContractError("A task has more parts than any.", fix="Tell the operator.")
        left, lock = MOST_OBJECTS_BYTES, threading.Lock()

        def pull(object_id: str) -> bytes:
            nonlocal left
            content = self.edge.pull_object(run_id, object_id)
            if sha256(content).hexdigest() != object_id:
                raise ValueError("an object is not what its name says")
            with lock:
                left -= len(content)
            if left < 0:
                raise ContractError("A task is larger than any.", fix="Tell the operator.")
            return content

        return pull_objects(
            names,
            pull_object_fn=pull,
            # A task is announced before its objects are uploaded; Flower would look again after
            # one second at the earliest.
            initial_backoff=0.05,
            backoff_cap=1.0,
        )

    def _have_done(self, request: Request, task: Handover, started: float) -> None:
        """Wait for the runner's reply, have the gate judge it, and send what comes of it."""
        try:
            outgoing = self._decided(request, task)
            # From here on the ledger holds it, on the disk; now, and not before, it may leave.
            try:
                self._send(outgoing, started)
            except ContractError as error:
                # The consortium did not take the file; the message about it does not leave either.
                self._send(self.gate.turn_away(request, error.code), started)
        except (Expired, RunEnded):
            self.gate.withhold(request)
        finally:
            task.withdraw()

    def _decided(self, request: Request, task: Handover) -> Outgoing:
        """The gate's word on what the runner answers, or on its not being there."""
        while True:
            reply_id = ""
            try:
                reply_id = self._await_reply(request, task)
                # Nothing of the reply has left while this looks at all of it.
                return self.gate.release(request, reply_id, partial(self._arriving, request, task))
            except RunnerLost:
                log.warning("courier.runner_lost")
            except RunnerAway:
                return self.gate.turn_away(request, "STR-511")
            finally:
                self.store.delete(reply_id)

    def _await_reply(self, request: Request, task: Handover) -> str:
        """Object id of the runner's reply; any other reply is dropped and noted."""
        while True:
            for reply in self.state.get_messages_legacy(is_reply=True):
                answered, own = reply.metadata.reply_to_message_id, reply.metadata.message_id
                self.state.delete_messages(message_ids=[own])
                if answered != request.message.metadata.message_id:
                    self.store.delete(own)
                    self.gate.withhold(request, "STR-307")
                elif reply.has_error() and is_no_answer(reply.error):
                    self.store.delete(own)
                    task.give_again()
                else:
                    return own
            if self.paused():
                task.hold(self.paused, partial(self._wait, request, LOOK_S))
            task.look_after()
            self._wait(request, LOOK_S)

    def _arriving(self, request: Request, task: Handover, object_id: str) -> bytes:
        """An object of the runner's reply, waited for when it was announced and is on its way."""
        patience = time.monotonic() + DELIVERY_S
        while (content := self.store.get(object_id)) == b"":
            self._wait(request, LOOK_S)
            if task.look_after():
                raise RunnerLost
            if time.monotonic() > patience:
                # It lives, and has stopped in the middle of its reply; there will be no end to it.
                raise Expired
        if content is None:
            raise KeyError("an object was never announced")
        return content

    def _wait(self, request: Request, seconds: float) -> None:
        asked = request.message.metadata
        if self.stop.wait(seconds):
            raise Stopped
        if time.time() > asked.created_at + asked.ttl:
            raise Expired

    def _send(self, outgoing: Outgoing, started: float) -> None:
        """Everything that leaves this site leaves here, after the gate, and only here."""
        run_id, update = outgoing.message.metadata.run_id, outgoing.update
        if update is not None:
            # First the file, then the message that names it: what is named is there.
            self.send(update.ref.sha256, update.path, update.ref.nbytes)
            if self.witness is not None:
                self.witness.expect()
        for _ in range(ANNOUNCEMENTS):
            wanted, session = self.edge.push(
                outgoing.message, outgoing.tree, time.monotonic() - started
            )
            give = partial(self.edge.push_object, run_id, session)
            with contextlib.suppress(ObjectPushError):
                push_object_contents_from_iterable(
                    ((name, data) for name, data in outgoing.objects.items() if name in wanted),
                    push_object_fn=give,
                )
                return
            # No place for it any more: another site's equal object was there first and all is taken
            # away already, or a new session has begun. Announced again, the server says which.
        log.warning("courier.answer_not_taken")  # it asks again when it has heard nothing
