"""The courier: the one process of a hospital that has a network. It sees no patient data.

It keeps one mutual-TLS connection to the consortium's edge, outbound only, pulls messages, hands
them to the runner over a loopback listener, and carries the runner's replies back. The code an
operator attaches to a run (Flower's FAB) is never asked for: the runner gets an empty one.

Flower's own SuperNode loop sleeps 3 s between polls, cannot show a client certificate and fetches
the FAB; this is a loop of our own on the same protocol, node state and Runtime API. What it relies
on in flwr 1.41 is held by tests/client/test_flower_contract.py.
"""

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from stillroom.client.sockets import loopback_listener
from stillroom.common.errors import ResourceError, TrustError
from stillroom.common.lifetime import patience
from stillroom.common.pki.files import check_pair, load_certificate, load_key
from stillroom.common.pki.verify import verify_site

log = logging.getLogger(__name__)

T = TypeVar("T")
EMPTY_FAB = Fab("", b"", {})
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 10.0
REQUEST_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class CourierSettings:
    """What a courier needs to know; made from ``site.toml``.

    Attributes:
        server: ``host:port`` of the consortium's edge.
        ca: The consortium's CA certificate.
        certificate: This site's certificate.
        private_key: Its key, which is also the Flower node key.
        runtime_port: Loopback port the runner talks to.
        secret: Shared with the runner; without it no task is handed out.
        poll_s: Pause between two looks for work.
    """

    server: str
    ca: Path
    certificate: Path
    private_key: Path
    runtime_port: int
    secret: bytes
    poll_s: float = 0.5


class RunEnded(Exception):  # noqa: N818  # it says what happened, it is no failure of ours
    """The server says that a message's run is over; the message is dropped."""


class Stopped(Exception):  # noqa: N818  # likewise
    """We were told to stop while waiting for the server."""


class Edge:
    """The connection to the consortium: Flower's Fleet calls under our identity and retries."""

    def __init__(self, settings: CourierSettings, stop: threading.Event) -> None:
        self._stop = stop
        key = load_key(settings.private_key)
        self._certificate = load_certificate(settings.certificate)
        self._ca = load_certificate(settings.ca)
        check_pair(self._certificate, key)
        self._check_certificate()
        self._public_key = public_key_to_bytes(key.public_key())
        self._server = settings.server
        self._client = FleetHttpClient(
            f"https://{settings.server}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
            verify=_client_context(settings),
            timeout=REQUEST_TIMEOUT_S,
        )
        self.node = Node()

    def activate(self) -> None:
        """Say that this site is here.

        Raises:
            TrustError: STR-201, STR-206 as ``_translate`` says.
        """
        answer = self._call(
            self._client.ActivateNode,
            ActivateNodeRequest(
                public_key=self._public_key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
            ),
        )
        self.node = Node(node_id=answer.node_id)

    def heartbeat(self) -> None:
        """Say that this site is still here; silently tried again next time."""
        with contextlib.suppress(httpx.HTTPError):
            self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(
                    node=self.node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
                )
            )

    def pull(self) -> tuple[Message, ObjectTree] | None:
        """The next message without its content; None when there is none."""
        answer = self._call(self._client.PullMessages, PullMessagesRequest(node=self.node))
        if not answer.messages_list:
            return None
        return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        """One object of a message."""
        return make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request), self.node, run_id
        )(object_id)

    def confirm(self, run_id: int, message_id: str) -> None:
        """The message and all its objects have arrived."""
        make_confirm_message_received_fn_protobuf(
            lambda request: self._call(self._client.ConfirmMessageReceived, request),
            self.node,
            run_id,
        )(message_id)

    def push(self, reply: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        """Announce a reply; returns the objects the server does not hold yet, and its session."""
        answer = self._call(
            self._client.PushMessages,
            PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(reply)],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            ),
        )
        return set(answer.objects_to_push), answer.session_id

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """Upload one object of a reply."""
        make_push_object_fn_protobuf(
            lambda request: self._call(self._client.PushObject, request),
            self.node,
            run_id,
            session,
        )(object_id, content)

    def close(self) -> None:
        """Say goodbye, so that the server need not wait for a missed heartbeat."""
        if self.node.node_id:
            with contextlib.suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node.node_id))
        self._client.close()

    def _check_certificate(self) -> None:
        """Refuse to go on under a certificate that no edge of this consortium would accept.

        The edge drops such a connection without a word (asyncio sends no TLS alert), which looks
        like a server that is away: what can be known here is said here.
        """
        verify_site(self._certificate, self._ca, datetime.now(UTC))

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        """Call until it works; a dropped line or a restarting server is waited out.

        Raises:
            Stopped: We were told to stop while waiting.
        """
        pause = RETRY_FIRST_S
        while True:
            try:
                return method(request)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                failure = _translate(error, self._server)
                if failure is not None:
                    raise failure from error
                self._check_certificate()
                log.warning("courier.retry", extra={"seconds": pause})
            if self._stop.wait(pause):
                raise Stopped
            pause = min(pause * 2, RETRY_MOST_S)


def _translate(error: httpx.HTTPError, server: str) -> Exception | None:
    """What a failed call means; None when it is worth trying again. Pure."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in {502, 503, 504}:
            return None
        if status == 403:
            return RunEnded()
        if status in {401, 412}:  # the edge's word, and Flower's for a key it does not know
            return TrustError(
                f"{server} does not accept this site's certificate and key together.",
                fix="Ask the operator whether this site is registered with its present certificate.",
                code="STR-206",
            )
        return error
    text = str(error).lower()
    if "certificate verify failed" in text or "hostname" in text:
        return TrustError(
            f"{server} did not show a certificate of this consortium's CA.",
            fix="Check the server's name and the CA file; a TLS-inspecting proxy also causes this.",
            code="STR-201",
        )
    if "certificate" in text or "alert" in text or "unknown ca" in text:
        return TrustError(
            f"{server} refused this site's certificate during the TLS handshake.",
            fix="Check that the certificate was issued by this consortium and has not expired.",
            code="STR-201",
        )
    return None


def _client_context(settings: CourierSettings) -> ssl.SSLContext:
    """TLS 1.3, the consortium's CA and no other, and this site's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(settings.ca)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context


def run_courier(settings: CourierSettings, stop: threading.Event) -> None:
    """Carry messages until ``stop`` is set.

    Raises:
        TrustError: This site or the server is not who it should be (STR-201, STR-202, STR-203,
            STR-206).
        ResourceError: STR-501 when the runtime port is taken.
    """
    objects = ObjectStoreFactory()
    states = NodeStateFactory(objectstore_factory=objects)
    state, store = states.state(), objects.store()
    edge = Edge(settings, stop)
    with runtime_listener(states, settings):
        try:
            edge.activate()
            state.set_node_id(edge.node.node_id)
            log.info("courier.connected")
            beat = threading.Thread(target=_beat, args=(edge, stop), daemon=True)
            beat.start()
            news = time.monotonic()
            while not stop.is_set():
                if carry_one(edge, state, store, stop):
                    news = time.monotonic()
                else:
                    stop.wait(patience(time.monotonic() - news, settings.poll_s))
        except Stopped:
            log.info("courier.stopped")
        finally:
            edge.close()


def carry_one(edge: Edge, state: NodeState, store: ObjectStore, stop: threading.Event) -> bool:
    """Fetch one message, wait for the runner's reply, send it; False when there was none."""
    pulled = edge.pull()
    if pulled is None:
        return False
    message, tree = pulled
    started = time.monotonic()
    try:
        _hand_over(edge, state, store, message, tree)
        reply = _await_reply(state, message, stop)
        if reply is not None:
            _send(edge, store, reply, time.monotonic() - started, stop)
    except RunEnded:
        log.info("courier.run_ended")
    return True


def _hand_over(
    edge: Edge, state: NodeState, store: ObjectStore, message: Message, tree: ObjectTree
) -> None:
    """Put a message where the runner finds it, with a run that carries no code."""
    run_id = message.metadata.run_id
    if state.get_run(run_id) is None:
        run = Run.create_empty(run_id)
        run.fab_hash = state.store_fab(EMPTY_FAB)
        run.series_id = run_id
        context = Context(
            run_id=run_id,
            node_id=edge.node.node_id,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        state.set_run_series_context(run_id, context)
        state.store_run(run)
    wanted = store.preregister(run_id, tree)
    contents = pull_objects(wanted, pull_object_fn=lambda name: edge.pull_object(run_id, name))
    for name in list(contents):
        store.put(name, contents.pop(name))
    state.store_message(message)
    # The task is what the runner takes; it comes last, so that a runner never finds half a message.
    state.create_task(
        task_type=TaskType.CLIENT_APP, run_id=run_id, fab_hash=state.store_fab(EMPTY_FAB)
    )
    edge.confirm(run_id, message.metadata.message_id)


def _await_reply(state: NodeState, message: Message, stop: threading.Event) -> Message | None:
    """The runner's reply; None when the message has expired or we are stopping."""
    expires = message.metadata.created_at + message.metadata.ttl
    while not stop.is_set() and time.time() < expires:
        for reply in state.get_messages_legacy(is_reply=True):
            if reply.metadata.reply_to_message_id == message.metadata.message_id:
                return reply
            # A reply to an expired message: nobody waits for it any more.
            state.delete_messages(message_ids=[reply.metadata.message_id])
        stop.wait(0.05)
    return None


def _send(
    edge: Edge, store: ObjectStore, reply: Message, seconds: float, stop: threading.Event
) -> None:
    """Everything of a reply leaves here, and only here."""
    run_id, tree = reply.metadata.run_id, store.get_object_tree(reply.metadata.message_id)
    try:
        wanted, session = edge.push(reply, tree, seconds)
        push_object_contents_from_iterable(
            _contents(store, tree, wanted, stop),
            push_object_fn=lambda name, content: edge.push_object(run_id, session, name, content),
        )
    finally:
        store.delete(reply.metadata.message_id)


def _contents(
    store: ObjectStore, tree: ObjectTree, wanted: set[str], stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """Objects of a reply as the runner delivers them, each once.

    Raises:
        Stopped: We were told to stop.
        RunEnded: The runner has gone in the middle of its reply, which is dropped.
    """
    remaining = set(wanted)
    for node in iterate_object_tree(tree):
        if node.object_id not in remaining:
            continue
        remaining.discard(node.object_id)
        patience = time.monotonic() + REQUEST_TIMEOUT_S
        while (content := store.get(node.object_id)) == b"":
            if stop.wait(0.02):
                raise Stopped
            if time.monotonic() > patience:
                raise RunEnded
        if content is None:
            raise ResourceError(
                "The runner withdrew a part of its reply.", fix="See its log.", code="STR-502"
            )
        yield node.object_id, content


def _beat(edge: Edge, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
        edge.heartbeat()


@contextlib.contextmanager
def runtime_listener(states: NodeStateFactory, settings: CourierSettings) -> Iterator[None]:
    """Flower's Runtime API for the runner, on loopback, tasks only against the shared secret.

    Raises:
        ResourceError: STR-501 when the port is taken.
    """
    with loopback_listener(settings.runtime_port) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(state_factory=states, superexec_auth_secret=settings.secret),
                log_level="warning",
                access_log=False,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=5)
