"""The edge: the one listener hospitals reach, and who may call what behind it.

Three locks, in this order:

1. TLS 1.3 with a client certificate issued by the consortium's CA; anything else ends in the
   handshake, before a byte of HTTP is read.
2. ``/v1/fleet/`` only: Flower serves its Control and Runtime APIs on the same application, and
   those have no authorisation of their own.
3. On every request the public key of the certificate must be the Flower node key in the header.
   Flower proves possession of that key and that it owns the node id, so one site cannot speak as
   another even with a stolen certificate or a stolen node key alone.

A refusal is 401: Flower's retry code takes 403 for "run not running" and would go on.
"""

import asyncio
import base64
import binascii
import logging
import ssl
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from stillroom.common.errors import ConfigError, StillroomError
from stillroom.common.pki.names import site_name

log = logging.getLogger(__name__)

FLEET = "/v1/fleet/"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as TLS proved it.

    Attributes:
        site: Name in the certificate; None when it names none.
        certificate_sha256: Fingerprint, lower-case hex.
        public_key: PEM SubjectPublicKeyInfo, the form Flower puts into its header.
        tls_version: As negotiated, e.g. ``TLSv1.3``.
    """

    site: str | None
    certificate_sha256: str
    public_key: bytes
    tls_version: str


@dataclass(slots=True)
class Traffic:
    """What the edge has seen of one site since it started."""

    certificate_sha256: str
    tls_version: str
    first_seen: float
    last_seen: float
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class EdgeRecord:
    """Identities, versions and bytes as the edge saw them; refusals by reason."""

    sites: dict[str, Traffic] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """For ``edge.json``."""
        return {
            "sites": {name: asdict(traffic) for name, traffic in sorted(self.sites.items())},
            "refused": dict(sorted(self.refused.items())),
        }

    def seen(self, peer: Peer, now: float) -> Traffic:
        """The running record of ``peer``; a new certificate starts a new one."""
        traffic = self.sites.get(str(peer.site))
        if traffic is None or traffic.certificate_sha256 != peer.certificate_sha256:
            traffic = Traffic(peer.certificate_sha256, peer.tls_version, now, now)
            self.sites[str(peer.site)] = traffic
        traffic.last_seen = now
        traffic.tls_version = peer.tls_version
        traffic.requests += 1
        return traffic


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
        self.app_state = {**self.app_state, "peer": peer}


def peer_of(tls: ssl.SSLObject) -> Peer | None:
    """The peer of a finished handshake; None when it showed no certificate."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        return None
    certificate = x509.load_der_x509_certificate(der)
    try:
        site: str | None = site_name(certificate)
    except StillroomError:
        site = None
    return Peer(
        site=site,
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        public_key=certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        tls_version=tls.version() or "unknown",
    )


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

    def __init__(self, app: ASGIApp, record: EdgeRecord) -> None:
        self._app = app
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # the inner listener owns the lifespan; nothing else is spoken here
        peer = cast("Peer | None", scope["state"].get("peer"))
        name = FLEET_HTTP_PUBLIC_KEY_HEADER.encode("ascii")
        header = next((value for key, value in scope["headers"] if key == name), None)
        why = refusal(scope["path"], header, peer)
        if why is not None:
            self._record.refused[why] += 1
            log.warning("edge.refused", extra={"reason": why, "site": peer and peer.site})
            await _answer(send, 401, why)
            return
        traffic = self._record.seen(cast("Peer", peer), time.time())

        async def counted_receive() -> Message:
            message = await receive()
            traffic.bytes_in += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            traffic.bytes_out += len(message.get("body", b""))
            await send(message)

        await self._app(scope, counted_receive, counted_send)


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode("ascii")})


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Server context: TLS 1.3 only, client certificate demanded, nothing resumed.

    Session tickets are off so that every connection shows its certificate again.

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
    return context
