"""The edge: the one listener hospitals reach, and who may call what behind it.

Four locks, in this order:

1. TLS 1.3 with a client certificate issued by the consortium's CA; anything else ends in the
   handshake, before a byte of HTTP is read.
2. On every request the certificate must be that of a site that is enrolled now (``membership``);
   connections of a site that was revoked are cut. One on which nothing was ever let in is left a
   moment for its refusal, so that whoever comes back learns why.
3. ``/v1/fleet/`` only, and our own ``/v1/stillroom/``: Flower serves its Control and Runtime APIs on
   the same application, and those have no authorisation of their own.
4. On every request the public key of the certificate must be the Flower node key in the header.
   Flower proves possession of that key and that it owns the node id, so one site cannot speak as
   another even with a stolen certificate or a stolen node key alone.

Flower signs only a timestamp, so a captured Fleet header could be sent again for five minutes; it
is of no use without the certificate's key, because of lock 4.

A refusal is 401: Flower's retry code takes 403 for "run not running" and would go on. A site of a
release that this server does not work with is who it says it is, and hears 426 with the one to install.
"""

import asyncio
import base64
import binascii
import logging
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from stillroom.common.errors import ConfigError
from stillroom.common.pki.files import load_certificate
from stillroom.common.pki.names import server_names
from stillroom.common.versions import HEADER, About, Verdict, client_refusal, present, stated
from stillroom.server.depot_api import answer
from stillroom.server.edge_record import EdgeRecord, Traffic
from stillroom.server.membership import Members, Peer, handshake_cause, read_peer
from stillroom.server.site_api import ABOUT, PREFIX, SiteApi

log = logging.getLogger(__name__)

FLEET = "/v1/fleet/"
REFUSED_S = 5.0
"""How long a connection on which nothing was let in may wait for its refusal."""


@dataclass(slots=True)
class Line:
    """One connection.

    Attributes:
        since: When it was made, by the steady clock.
        let_in: Whether any request on it was handed to an application.
    """

    since: float
    let_in: bool = False


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which also tells the application who connected.

    uvicorn does not implement the ASGI TLS extension; ``scope["state"]`` is where it lets a
    protocol class leave something for the application.
    """

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        peer = peer_of(tls) if tls is not None else None
        self.app_state = {**self.app_state, "peer": peer, "line": Line(time.monotonic())}


def peer_of(tls: ssl.SSLObject) -> Peer | None:
    """The peer of a finished handshake; None when it showed no certificate."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        return None
    return read_peer(der, tls.version() or "unknown")


def refusal(path: str, header: bytes | None, peer: Peer | None) -> str | None:
    """Why a request may not pass; None when it may. Pure."""
    if peer is None or peer.site is None:
        return "no-site-certificate"
    if not path.startswith(FLEET):
        return "path"
    if header is None:
        return "no-node-key"
    try:
        claimed = base64.b64decode(header, validate=True)
    except binascii.Error:
        return "no-node-key"
    return None if claimed == peer.public_key else "key-mismatch"


class FleetGate:
    """ASGI application that lets hospitals reach the Fleet API, each only as itself."""

    def __init__(
        self,
        app: ASGIApp,
        record: EdgeRecord,
        members: Members | None = None,
        site_api: SiteApi | None = None,
        about: About | None = None,
    ) -> None:
        """Stand before ``app``.

        Args:
            app: Flower's application.
            record: Where requests and refusals are counted.
            members: Who is enrolled; None leaves that to TLS.
            site_api: Answers ``/v1/stillroom/``; None refuses it like any other path.
            about: This server, which decides whose release fits; None is the one installed here.
        """
        self._app = app
        self._record = record
        self._members = members
        self._site_api = site_api
        self._about = about or present()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # the inner listener owns the lifespan; nothing else is spoken here
        peer = cast("Peer | None", scope["state"].get("peer"))
        name = FLEET_HTTP_PUBLIC_KEY_HEADER.encode("ascii")
        header = next((value for key, value in scope["headers"] if key == name), None)
        why = self._members.refusal(peer) if self._members else None
        ours = self._site_api is not None and scope["path"].startswith(PREFIX)
        if why is None and not (ours and peer is not None and peer.site is not None):
            why = refusal(scope["path"], header, peer)
        if why is not None:
            self._record.refused[why] += 1
            log.warning("edge.refused", extra={"reason": why, "site": peer and peer.site})
            await _answer(send, 401, why)
            return
        if (line := scope["state"].get("line")) is not None:
            line.let_in = True
        traffic = self._record.seen(cast("Peer", peer), time.time())

        async def counted_receive() -> Message:
            message = await receive()
            traffic.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            traffic.bytes_out += len(message.get("body", b""))
            if message.get("status") == 401:
                # Flower's own check: an old timestamp, a bad signature, somebody else's node id.
                self._record.refused["node-authentication"] += 1
                extra = {"reason": "node-authentication", "site": cast("Peer", peer).site}
                log.warning("edge.refused", extra=extra)
            await send(message)

        if not ours:
            traffic.courier_at = traffic.last_seen
        if (verdict := self._version_refusal(scope, traffic)) is not None:
            self._record.refused[verdict] += 1
            log.warning("edge.refused", extra={"reason": verdict, "site": cast("Peer", peer).site})
            said = {"code": "STR-216", **self._about.as_json()}
            await answer(counted_send, 426, said, close=True)
            return
        if ours and self._site_api is not None:
            await self._site_api(scope, counted_receive, counted_send, str(cast("Peer", peer).site))
            return
        await self._app(scope, counted_receive, counted_send)

    def _version_refusal(self, scope: Scope, traffic: Traffic) -> Verdict | None:
        """Note what a courier states; why its release is not taken, which it may always ask."""
        name = HEADER.encode("ascii")
        text = next((value for key, value in scope["headers"] if key == name), None)
        client = stated(None if text is None else text.decode("latin-1"))
        traffic.version = None if text is None or client is None else str(client)
        if scope["path"] == PREFIX + ABOUT:
            return None
        return client_refusal(client, self._about)


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode("ascii")
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def cut(connections: Iterable[asyncio.Protocol], members: Members, record: EdgeRecord) -> None:
    """End every connection whose site has been revoked, or whose certificate has expired, since.

    At once where a request was let in on it: something may be under way. Where none was, every request
    is refused by the gate, whoever asks; cut before that, a site would not learn why.
    """
    now = time.monotonic()
    for connection in connections:
        if not isinstance(connection, PeerProtocol):
            continue
        peer = cast("Peer | None", connection.app_state.get("peer"))
        why = members.refusal(peer)
        if why in {"revoked", "not-enrolled", "other-key", "expired"}:
            line = cast("Line", connection.app_state["line"])
            if not line.let_in and now - line.since < REFUSED_S:
                continue
            record.refused[f"cut-{why}"] += 1
            log.warning("edge.cut", extra={"reason": why, "site": peer and peer.site})
            connection.transport.abort()


def tls_context(
    ca: Path, certificate: Path, key: Path, record: EdgeRecord | None = None
) -> ssl.SSLContext:
    """Server context: TLS 1.3 only, client certificate demanded, nothing resumed.

    Session tickets are off so that every connection shows its certificate again. Handshakes that
    fail are counted in ``record`` by cause; nobody else would learn of them.

    Raises:
        ConfigError: STR-101 when a file is not what it should be, or certificate and key differ.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            "The server's certificate and key, or the CA's certificate, cannot be used.",
            fix="Check the three files under [tls] in server.toml.",
            code="STR-101",
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    if record is not None:
        context.sslobject_class = _counting(record)
        names = server_names(load_certificate(certificate))
        context.sni_callback = lambda _tls, name, _context: record.asked_for(name, names)
    return context


def _counting(record: EdgeRecord) -> type[ssl.SSLObject]:
    """An ``SSLObject`` that tells ``record`` why a handshake failed.

    asyncio drops such errors silently (``SSLError`` is an ``OSError`` to it); the object that makes
    the handshake is the one place where all of them pass.
    """

    class Counting(ssl.SSLObject):
        @override
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                why = handshake_cause(error.reason or "", getattr(error, "verify_message", ""))
                record.handshakes_refused[why] += 1
                log.warning("edge.refused", extra={"reason": why})
                raise

    return Counting
