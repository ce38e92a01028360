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
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stillroom.client.breaks import RunEnded, Stopped
from stillroom.client.compatibility import version_header
from stillroom.client.failures import not_accepted, status_of, translate
from stillroom.client.newcomer import may_be_known_soon
from stillroom.client.papers import Papers, check_papers, client_context, issued_at
from stillroom.common.errors import StillroomError, TrustError
from stillroom.common.pki.files import check_pair, load_certificate, load_key

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_FIRST_S, RETRY_MOST_S = 0.2, 2.0
"""A server that comes back is found within seconds."""
REQUEST_TIMEOUT_S = 60.0
ADMISSION_S = 90.0
"""Flower takes a node that was killed for connected for 60 s, and admits no other in its place."""
AGAIN_S = 1.0
"""Pause before asking to be admitted again."""
JOINS = 3
"""Times in a row that a server which has forgotten us is joined again before it is no accident."""


class Forgotten(RunEnded):
    """The server has started anew: it knows neither this node nor the run of what we carry."""


class StatesVersion:
    """Has Flower's client state our release, as every other request of this site does."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header."""
        context.request.headers.update(version_header())
        return call_next(context)


class FleetSettings(Papers, Protocol):
    """Where the edge is, and this site's papers for it."""

    @property
    def server(self) -> str:
        """``host:port``."""
        ...


class Edge:
    """The connection to the consortium: Flower's Fleet calls under our identity and retries."""

    def __init__(
        self,
        settings: FleetSettings,
        stop: threading.Event,
        *,
        arrive: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read this site's papers; nothing is asked yet.

        Args:
            settings: Where the edge is, and the papers.
            stop: Ends every waiting.
            arrive: Says to the server that this courier has started, before Flower is asked to
                admit it; whether its key is known there.

        Raises:
            TrustError: STR-201, STR-203, the papers.
        """
        self._stop, self._arrive = stop, arrive
        self._joining = threading.Lock()
        key = load_key(settings.private_key)
        self._settings = settings
        check_pair(load_certificate(settings.certificate), key)
        self.check_papers()
        self._public_key = public_key_to_bytes(key.public_key())
        self._server = settings.server
        self._client = self._connect()
        self._previous: FleetHttpClient | None = None
        self.node = self._carrier = Node()

    def _connect(self) -> FleetHttpClient:
        key = load_key(self._settings.private_key)
        return FleetHttpClient(
            f"https://{self._server}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
                StatesVersion(),
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
        """Say that this site is here, until Flower admits it.

        Raises:
            TrustError: STR-201, STR-206 as ``translate`` says.
            Stopped: We were told to stop while waiting.
        """
        with self._joining:
            self._join()

    def _join(self) -> None:
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        since, known = time.monotonic(), False
        while True:
            try:
                known = self._arrive()
                answer = self._call(self._client.ActivateNode, request)
            except TrustError as error:
                status, waited = status_of(error.__cause__), time.monotonic() - since
                known = known and status == 412 and waited < ADMISSION_S
                if not (known or self._may_pass(error.__cause__, waited)):
                    raise
                log.warning(
                    "courier.not_admitted_yet",
                    extra={"note": f"asking for up to {ADMISSION_S - waited:.0f} s more"},
                )
                if self._stop.wait(AGAIN_S):
                    raise Stopped from error
                continue
            self.node = Node(node_id=answer.node_id)
            return

    def _join_again(self, forgotten: Node) -> None:
        """The server knows ``forgotten`` no longer; nothing when we have another place by now."""
        with self._joining:
            if self.node.node_id == forgotten.node_id:
                log.warning("courier.joins_again")
                self._join()

    def heartbeat(self) -> bool:
        """Say that this site is still here, silently tried again next time; whether it was heard."""
        node = self.node
        try:
            self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
            )
        except httpx.HTTPError as error:
            if status_of(error) == httpx.codes.UNAUTHORIZED:
                # A site that trains for an hour asks for nothing else in that hour.
                with contextlib.suppress(Stopped, StillroomError):
                    self._join_again(node)
            return False
        return True

    def pull(self) -> tuple[Message, ObjectTree] | None:
        """The next message without its content; None when there is none.

        A server that has started anew is joined again.
        """
        for _ in range(JOINS):
            node = self.node
            try:
                answer = self._call(self._client.PullMessages, PullMessagesRequest(node=node))
            except Forgotten:
                self._join_again(node)
                continue
            if not answer.messages_list:
                return None
            # What belongs to this message is asked for under this name, in this life of the
            # server; another life does not know the name, and says so.
            self._carrier = node
            return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
        raise not_accepted(self._server)

    def pull_object(self, run_id: int, object_id: str) -> bytes:
        """One object of a message."""
        return make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request), self._carrier, run_id
        )(object_id)

    def confirm(self, run_id: int, message_id: str) -> None:
        """The message and all its objects have arrived."""
        make_confirm_message_received_fn_protobuf(
            lambda request: self._call(self._client.ConfirmMessageReceived, request),
            self._carrier,
            run_id,
        )(message_id)

    def push(self, reply: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        """Announce a reply; returns the objects the server does not hold yet, and its session."""
        answer = self._call(
            self._client.PushMessages,
            PushMessagesRequest(
                node=self._carrier,
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
            self._carrier,
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
            Forgotten: The server knows this node no longer.
        """
        pause, refused = RETRY_FIRST_S, None
        while True:
            try:
                return method(request)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if status_of(error) == httpx.codes.UNAUTHORIZED and self._was_admitted(request):
                    raise Forgotten from error
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

    def _was_admitted(self, request: Any) -> bool:
        return bool(self.node.node_id) and not isinstance(request, ActivateNodeRequest)

    def _may_pass(self, error: BaseException | None, waited_s: float) -> bool:
        """True for a refusal that the next second may take back: see ``newcomer``."""
        status = status_of(error)
        if status is None:
            return False
        issued, now = issued_at(self._settings), datetime.now(UTC)
        return may_be_known_soon(status, issued, now, waited_s)
