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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.app import Message
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
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from stillroom.client.agreement import Agreement
from stillroom.client.carriage import Carriage, RunEnded, Stopped
from stillroom.client.consent_post import ConsentPost
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.gate import Gate
from stillroom.client.ledger import NAME, Ledger
from stillroom.client.listener import runtime_listener
from stillroom.client.models import Models
from stillroom.client.outbox import Outbox
from stillroom.client.proxy import proxy_refused
from stillroom.client.renewal import EVERY_S, Renewal
from stillroom.client.transfer import Transfer
from stillroom.common.errors import TrustError
from stillroom.common.lifetime import patience
from stillroom.common.pki.files import check_pair, load_certificate, load_key
from stillroom.common.pki.verify import verify_site

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 2.0
"""A server that comes back is found within seconds."""
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
        agreement: The study and this site's consent to it; the gate lets nothing through outside
            it.
        state: The courier's own folder: the ledger, in which everything that leaves is entered
            first, and the outbox.
        exchange: The folder that the runner sees, too.
        study: Folder of the prepared study.
        poll_s: Pause between two looks for work.
        renew_every_s: Pause between two questions for a newer certificate.
    """

    server: str
    ca: Path
    certificate: Path
    private_key: Path
    runtime_port: int
    secret: bytes
    agreement: Agreement
    state: Path
    exchange: Path
    study: Path
    runner_grace_s: float = 60.0
    poll_s: float = 0.5
    renew_every_s: float = EVERY_S


class Edge:
    """The connection to the consortium: Flower's Fleet calls under our identity and retries."""

    def __init__(self, settings: CourierSettings, stop: threading.Event) -> None:
        self._stop = stop
        key = load_key(settings.private_key)
        self._settings = settings
        check_pair(load_certificate(settings.certificate), key)
        self._check_certificate()
        self._public_key = public_key_to_bytes(key.public_key())
        self._server = settings.server
        self._client = self._connect()
        self._previous: FleetHttpClient | None = None
        self.node = Node()

    def _connect(self) -> FleetHttpClient:
        key = load_key(self._settings.private_key)
        return FleetHttpClient(
            f"https://{self._server}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
            verify=_client_context(self._settings),
            timeout=REQUEST_TIMEOUT_S,
        )

    def reconnect(self) -> None:
        """Show the present certificate from the next call on; calls under way are not disturbed."""
        fresh, old = self._connect(), self._previous
        self._client, self._previous = fresh, self._client
        if old is not None:
            old.close()  # of the renewal before; nothing has used it for weeks

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
        for client in (self._client, self._previous):
            if client is not None:
                client.close()

    def check_papers(self) -> None:
        """Raise TrustError when it is our own certificate that keeps us out."""
        self._refuse_expired()
        self._check_certificate()

    def _refuse_expired(self) -> None:
        """Say so when it is our own certificate that keeps us out.

        The server ends the handshake without a word, which looks like a broken line from here.
        """
        end = load_certificate(self._settings.certificate).not_valid_after_utc
        if datetime.now(UTC) > end:
            raise TrustError(
                f"This site's certificate expired on {end:%Y-%m-%d}.",
                fix="Ask the operator for a new invitation and enrol again; check the clock first.",
                code="STR-201",
            )

    def _check_certificate(self) -> None:
        """Refuse to go on under a certificate that no edge of this consortium would accept.

        The edge drops such a connection without a word (asyncio sends no TLS alert), which looks
        like a server that is away: what can be known here is said here.
        """
        certificate = load_certificate(self._settings.certificate)  # renewed while we run
        verify_site(certificate, load_certificate(self._settings.ca), datetime.now(UTC))

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
                self.check_papers()
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
    if isinstance(error, httpx.ProxyError):
        # A proxy's 5xx speaks of the line behind it, which may come back by itself.
        return None if text.startswith("5") else proxy_refused(error)
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
            STR-206); the ledger (STR-220) is damaged.
        ResourceError: STR-501 when the runtime port is taken; STR-507 when another courier has
            the ledger, STR-503 when its disk fails.
    """
    objects = ObjectStoreFactory()
    states = NodeStateFactory(objectstore_factory=objects)
    state, store = states.state(), objects.store()
    edge = Edge(settings, stop)
    transfer = Transfer(
        settings.server, lambda: _client_context(settings), stop, check=edge.check_papers
    )
    with Ledger(settings.state / NAME) as ledger, runtime_listener(states, settings):
        if ledger.torn is not None:
            log.warning("ledger.torn", extra={"note": f"{ledger.torn.name} holds a torn line"})
        carriage = _carriage(edge, state, store, ledger, transfer, settings, stop)
        try:
            _tell_consents(settings, stop)
            _renew(edge, settings, stop)
            edge.activate()
            state.set_node_id(edge.node.node_id)
            # What the courier before this one was given died with it; the server gives it again.
            transfer.arrive()
            log.info("courier.connected")
            beat = threading.Thread(target=_beat, args=(edge, stop), daemon=True)
            beat.start()
            news = time.monotonic()
            while not stop.is_set():
                if carriage.carry_one():
                    news = time.monotonic()
                else:
                    stop.wait(patience(time.monotonic() - news, settings.poll_s))
        except Stopped:
            log.info("courier.stopped")
        finally:
            transfer.close()
            edge.close()


def _carriage(
    edge: Edge,
    state: NodeState,
    store: ObjectStore,
    ledger: Ledger,
    transfer: Transfer,
    settings: CourierSettings,
    stop: threading.Event,
) -> Carriage:
    """Everything a message passes on its way, put together."""
    agreement = settings.agreement
    prepared = agreement.prepared
    exchange = ExchangeFolder(settings.exchange).prepare()
    outbox = Outbox.below(settings.state, exchange, prepared)
    return Carriage(
        edge=edge,
        state=state,
        store=store,
        gate=Gate(prepared, ledger, outbox, agreement.require),
        models=Models(
            exchange, prepared, settings.study, transfer.fetch, settings.state / "models.json"
        ),
        send=transfer.send,
        stop=stop,
        runner_grace_s=settings.runner_grace_s,
    )


def _tell_consents(settings: CourierSettings, stop: threading.Event) -> None:
    """Before the server knows that this site is here: a study must not open without its yes."""
    if settings.agreement.consent is None:
        return
    post = ConsentPost(
        settings.agreement.consent.book, settings.server, lambda: _client_context(settings)
    )
    post.until(stop)
    threading.Thread(target=post.keep_telling, args=(stop,), daemon=True).start()


def _renew(edge: Edge, settings: CourierSettings, stop: threading.Event) -> None:
    """Keep this site's certificate young, in a thread of its own."""
    renewal = Renewal(
        server=settings.server,
        ca=settings.ca,
        certificate=settings.certificate,
        private_key=settings.private_key,
        context=lambda: _client_context(settings),
        renewed=edge.reconnect,
    )
    arguments = (stop, settings.renew_every_s)
    threading.Thread(target=renewal.keep_asking, args=arguments, daemon=True).start()


def _beat(edge: Edge, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
        edge.heartbeat()
