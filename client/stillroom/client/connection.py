"""A plain HTTPS connection to the edge, through the hospital's proxy where there is one.

Files of weights go over the standard library's client: for bodies of 250 MB it takes half the
processor time of httpx, which parses every TLS record (measured: 0.6 s against 1.2 s a download).
"""

import base64
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from typing_extensions import override

from stillroom.client.compatibility import (
    UPGRADE_REQUIRED,
    refused_over_version,
    version_header,
)
from stillroom.client.proxy import proxy_refused
from stillroom.common.errors import ContractError, ResourceError, StillroomError, TrustError

CONNECT_S = 10.0
"""Longest wait for a connection; short, so that a line that is back is used within seconds."""
STALL_S = 20.0
"""Longest wait for the next bytes of an open connection."""
UNSENT = 256 * 1024
"""Bytes the kernel may hold unsent: what it holds when a line breaks has to be sent again."""
IDLE_S = 3.0
"""A kept connection is used again within this time; the edge closes it after 5 s."""
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


class Refused(Exception):  # noqa: N818  # it says what happened; ``meaning`` says what it means
    """The server answered, but not as hoped.

    Attributes:
        status: HTTP status.
        code: The server's error code; empty when it gave none.
        said: All that it answered in words.
    """

    def __init__(self, status: int, code: str, said: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.code, self.said = status, code, said or {}


class Stating(http.client.HTTPSConnection):
    """A connection whose every request states our release."""

    @override
    def putrequest(
        self,
        method: str,
        url: str,
        skip_host: bool = False,  # as the standard library has it
        skip_accept_encoding: bool = False,
    ) -> None:
        super().putrequest(method, url, skip_host, skip_accept_encoding)
        for name, value in version_header().items():
            self.putheader(name, value)


class Dialler:
    """Makes connections to one server, and keeps those that can be used again."""

    def __init__(self, server: str, context: Callable[[], ssl.SSLContext]) -> None:
        """Take ``host:port`` of the edge, and what makes a context with the present certificate."""
        self.server, self._context = server, context
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []

    def take(self) -> http.client.HTTPSConnection:
        """An open connection; to be given back with ``keep``, or closed.

        Raises:
            OSError: The server or the proxy cannot be reached, or TLS failed; see ``failure``.
            ResourceError: STR-506, a proxy of a kind that is not supported.
        """
        while self._idle:
            since, kept = self._idle.pop()  # atomic: used from several threads
            if time.monotonic() - since < IDLE_S:
                return kept
            kept.close()
        where = urlsplit(f"//{self.server}")
        host, port = str(where.hostname), where.port or 443
        proxy = proxy_for(host, port)
        timeout = CONNECT_S
        if proxy is None:
            made: Stating = Stating(host, port, timeout=timeout, context=self._context())
        else:
            made = Stating(
                str(proxy.hostname), proxy.port or 80, timeout=timeout, context=self._context()
            )
            made.set_tunnel(host, port, _credentials(proxy))
        try:
            made.connect()
            made.sock.settimeout(STALL_S)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        except BaseException:
            made.close()
            raise
        return made

    def keep(self, connection: http.client.HTTPSConnection) -> None:
        """Keep a connection whose answer has been read to its end, if the server does too."""
        if connection.sock is not None:
            self._idle.append((time.monotonic(), connection))

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop()[1].close()


def proxy_for(host: str, port: int) -> SplitResult | None:
    """The proxy that the environment names for ``https://host:port``; None when there is none.

    Raises:
        ResourceError: STR-506, it is not an ``http://`` one.
    """
    proxies = getproxies()
    text = proxies.get("https") or proxies.get("all")
    if not text or proxy_bypass(host) or proxy_bypass(f"{host}:{port}"):
        return None
    proxy = urlsplit(text if "://" in text else f"http://{text}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise ResourceError(
            "The proxy named in HTTPS_PROXY is of a kind that is not supported.",
            fix="Give it as http://proxy:port; TLS to the server goes through it unbroken.",
            code="STR-506",
        )
    return proxy


def require_usable_proxy(server: str) -> None:
    """Say at the start, and once, when the environment names a proxy that nobody here can use.

    Args:
        server: ``host:port``.

    Raises:
        ResourceError: STR-506, it is not an ``http://`` one.
    """
    where = urlsplit(f"//{server}")
    proxy_for(str(where.hostname), where.port or 443)


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}


def failure(error: Exception, server: str) -> StillroomError | None:
    """What a broken connection means; None when it is worth trying again. Pure."""
    text = str(error)
    if tunnel := _TUNNEL.search(text):
        # A proxy's 5xx speaks of the line behind it, which may come back by itself.
        if tunnel[1].startswith("5"):
            return None
        return proxy_refused(httpx.ProxyError(tunnel[1]))
    if isinstance(error, ssl.SSLCertVerificationError):
        return TrustError(
            f"{server} did not show a certificate of this consortium's CA.",
            fix="Check the server's name and the CA file; a TLS-inspecting proxy also causes this.",
            code="STR-201",
        )
    if isinstance(error, ssl.SSLError) and any(
        word in text.lower() for word in ("certificate", "alert", "unknown ca")
    ):
        return TrustError(
            f"{server} refused this site's certificate during the TLS handshake.",
            fix="Check that the certificate was issued by this consortium and has not expired.",
            code="STR-201",
        )
    return None


def meaning(refused: Refused, server: str) -> StillroomError | None:
    """What a refusal means; None when it is worth trying again. Pure."""
    status = refused.status
    if status in {408, 409, 429} or status >= 500:
        return None
    if status == 401:
        return TrustError(
            f"{server} does not accept this site's certificate.",
            fix="Ask the operator whether this site is enrolled with its present certificate.",
            code="STR-206",
        )
    if status == UPGRADE_REQUIRED:
        return refused_over_version(refused.said, server)
    if status == 413:
        return ContractError(
            f"{server} takes no file of weights of this size.",
            fix="Ask the operator to raise max_blob_mib in server.toml.",
            code="STR-312",
        )
    if status == 422:
        return ContractError(
            f"{server} received a file of weights that is not what its name says.",
            fix="Check this site's disk; something on the way changes bytes otherwise.",
            code="STR-311",
        )
    if refused.code == "STR-311":
        return ContractError(
            f"{server} does not have a file of weights that its message names, or not of that size.",
            fix="Nothing to do here: the server asks again when it has gone on.",
            code="STR-311",
        )
    return ContractError(
        f"{server} refused a request about files of weights (HTTP {status}).",
        fix="Check that server and site run releases that fit together.",
    )
