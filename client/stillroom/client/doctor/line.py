"""The way to the server, walked step by step as the courier walks it; what was seen at each step.

Only a probe: it decides nothing. Nothing but a greeting goes to whoever has not shown a certificate
of the consortium's CA.
"""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from stillroom.client.config import SiteConfig
from stillroom.client.connection import proxy_for
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import load_certificate
from stillroom.common.versions import HEADER, own_version

ABOUT = "/v1/stillroom/about"
PRESENCE = "/v1/stillroom/presence"
MOST_BYTES = 1 << 14
ATTEMPTS, AGAIN_S = 6, 0.1


@dataclass(slots=True)
class LineSeen:
    """What was seen; a field that was not reached keeps its default.

    Attributes:
        host: Of the server.
        port: Of the server.
        proxy: ``host:port`` of the proxy, without its password; None where none is used.
        proxy_login: Whether a user name for it is given.
        proxy_problem: Why the proxy named in the environment cannot be used.
        addresses: What the name of the next hop stands for.
        name_error: Why there are none.
        connect_errors: One for each address that did not answer.
        connected: Whether one did.
        tunnel: Status of the proxy's answer to CONNECT.
        handshake: Why there was no TLS.
        shown: The certificate that was shown.
        ours: Whether the consortium's CA signed it.
        answer_error: Why there was no answer to the first request.
        status: HTTP status of the answer.
        body: Its first words.
        date: Its ``Date``.
        received_at: When it came, by this machine's clock.
        round_trip_s: How long the question took.
        presence: What the server says about this site's courier.
    """

    host: str
    port: int
    proxy: str | None = None
    proxy_login: bool = False
    proxy_problem: StillroomError | None = None
    addresses: Sequence[str] = ()
    name_error: str = ""
    connect_errors: dict[str, str] = field(default_factory=dict)
    connected: bool = False
    tunnel: int | None = None
    handshake: str = ""
    shown: x509.Certificate | None = None
    ours: bool = False
    answer_error: str = ""
    status: int | None = None
    body: str = ""
    date: datetime | None = None
    received_at: datetime | None = None
    round_trip_s: float = 0.0
    presence: dict[str, Any] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The answer's JSON; empty where it was none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def hop(self) -> tuple[str, int]:
        """What is dialled first: the proxy, or the server."""
        where = urlsplit(f"//{self.proxy}") if self.proxy else None
        return (self.host, self.port) if where is None else (str(where.hostname), where.port or 80)


def look_along(config: SiteConfig, clock: Callable[[], datetime], patience_s: float) -> LineSeen:
    """Walk as far as it goes.

    The edge cuts connections of who is out, sometimes before it has told why: then once more.
    """
    for _ in range(ATTEMPTS - 1):
        seen = _walk(config, clock, patience_s)
        if not seen.ours or seen.status is not None:
            return seen
        time.sleep(AGAIN_S)
    return _walk(config, clock, patience_s)


def _walk(config: SiteConfig, clock: Callable[[], datetime], patience_s: float) -> LineSeen:
    where = urlsplit(f"//{config.server}")
    seen = LineSeen(str(where.hostname), where.port or 443)
    try:
        proxy = proxy_for(seen.host, seen.port)
    except StillroomError as error:
        seen.proxy_problem = error
        return seen
    if proxy is not None:
        seen.proxy, seen.proxy_login = f"{proxy.hostname}:{proxy.port or 80}", bool(proxy.username)
    sock = _connect(seen, patience_s)
    if sock is None:
        return seen
    with contextlib.closing(sock):
        if proxy is not None and not _tunnel(seen, sock, proxy):
            return seen
        tls = _handshake(seen, sock, config)
        if tls is None:
            return seen
        with contextlib.closing(tls):
            seen.ours = _is_ours(seen.shown, config)
            if seen.ours:
                _ask(seen, tls, clock, patience_s)
    return seen


def _connect(seen: LineSeen, patience_s: float) -> socket.socket | None:
    host, port = seen.hop
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        seen.name_error = error.strerror or type(error).__name__
        return None
    except UnicodeError:
        seen.name_error = "it is no name"
        return None
    seen.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(patience_s)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            why = "timed out" if isinstance(error, TimeoutError) else (error.strerror or "failed")
            seen.connect_errors[str(address[0])] = why
        else:
            seen.connected = True
            return sock
    return None


def _tunnel(seen: LineSeen, sock: socket.socket, proxy: SplitResult) -> bool:
    """Ask the proxy for a tunnel, as the courier does."""
    lines = [f"CONNECT {seen.host}:{seen.port} HTTP/1.1", f"Host: {seen.host}:{seen.port}"]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(pair).decode("ascii"))
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = http.client.HTTPResponse(sock, method="CONNECT")
        answer.begin()
        seen.tunnel = answer.status
    except (OSError, http.client.HTTPException, UnicodeError):
        seen.tunnel = 0
    return seen.tunnel == 200


def _handshake(seen: LineSeen, sock: socket.socket, config: SiteConfig) -> ssl.SSLSocket | None:
    """TLS with whoever is there; who that is, is looked at afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError, ValueError):
        # Without it the server answers nothing; what is wrong with it is another check's business.
        context.load_cert_chain(config.tls.certificate, config.tls.private_key)
    try:
        tls = context.wrap_socket(sock, server_hostname=seen.host)
    except ssl.SSLError as error:
        seen.handshake = error.reason or "TLS failed"
        return None
    except OSError as error:
        seen.handshake = error.strerror or type(error).__name__
        return None
    with contextlib.suppress(ValueError):
        seen.shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
    return tls


def _is_ours(shown: x509.Certificate | None, config: SiteConfig) -> bool:
    """Whether the consortium's CA signed it, whatever the clock says."""
    if shown is None:
        return False
    try:
        shown.verify_directly_issued_by(load_certificate(config.tls.ca))
    except (InvalidSignature, ValueError, TypeError, StillroomError):
        return False
    return True


def _ask(
    seen: LineSeen, tls: ssl.SSLSocket, clock: Callable[[], datetime], patience_s: float
) -> None:
    tls.settimeout(patience_s)
    line = http.client.HTTPSConnection(seen.host, seen.port)
    line.sock = tls
    headers = {HEADER: str(own_version())}
    began = time.monotonic()
    try:
        line.request("GET", ABOUT, headers=headers)
        answer = line.getresponse()
        body = answer.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        seen.answer_error = str(getattr(error, "reason", "") or type(error).__name__)
        return
    seen.round_trip_s, seen.received_at = time.monotonic() - began, clock()
    seen.status, seen.body = answer.status, body.decode("utf-8", "replace")
    seen.date = _date(answer.getheader("Date"))
    if answer.status not in {200, 404} or line.sock is None:
        return
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        line.request("POST", PRESENCE, body=b"", headers=headers)
        told = line.getresponse()
        words = told.read(MOST_BYTES)
        if told.status == 200 and isinstance(value := json.loads(words), dict):
            seen.presence = value


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
