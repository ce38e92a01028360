"""The courier's connection to the consortium: Flower's Fleet API under this site's identity.

What it relies on in flwr 1.41 is held by tests/client/test_flower_contract.py.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

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
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stillroom.client.carriage import RunEnded, Stopped
from stillroom.client.newcomer import may_be_known_soon
from stillroom.client.papers import Papers, check_papers, client_context, issued_at
from stillroom.client.proxy import proxy_refused
from stillroom.common.errors import TrustError
from stillroom.common.pki.files import check_pair, load_certificate, load_key

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 2.0
"""A server that comes back is found within seconds."""
REQUEST_TIMEOUT_S = 60.0


class FleetSettings(Papers, Protocol):
    """Where the edge is, and this site's papers for it."""

    @property
    def server(self) -> str:
        """``host:port``."""
        ...


class Edge:
    """The connection to the consortium: Flower's Fleet calls under our identity and retries."""

    def __init__(self, settings: FleetSettings, stop: threading.Event) -> None:
        self._stop = stop
        key = load_key(settings.private_key)
        self._settings = settings
        check_pair(load_certificate(settings.certificate), key)
        self.check_papers()
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
            verify=client_context(self._settings),
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
        check_papers(self._settings)  # anew each time: it is renewed while we run

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        """Call until it works; a dropped line or a restarting server is waited out.

        Raises:
            Stopped: We were told to stop while waiting.
        """
        pause, refused = RETRY_FIRST_S, None
        while True:
            try:
                return method(request)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                failure = translate(error, self._server)
                if failure is not None:
                    refused = refused or time.monotonic()
                    if not self._may_pass(error, time.monotonic() - refused):
                        raise failure from error
                self.check_papers()
                log.warning("courier.retry", extra={"seconds": pause})
            if self._stop.wait(pause):
                raise Stopped
            pause = min(pause * 2, RETRY_MOST_S)

    def _may_pass(self, error: httpx.HTTPError, waited_s: float) -> bool:
        """True for a refusal that the next second may take back: see ``newcomer``."""
        if not isinstance(error, httpx.HTTPStatusError):
            return False
        issued, now = issued_at(self._settings), datetime.now(UTC)
        return may_be_known_soon(error.response.status_code, issued, now, waited_s)


def translate(error: httpx.HTTPError, server: str) -> Exception | None:
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
