"""A real edge in a thread, a consortium's papers, and a line that breaks on command."""

import asyncio
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from stillroom.client.transfer import Transfer
from stillroom.common.pki.files import load_certificate, write_certificate, write_key
from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key
from stillroom.server.depot import Depot
from stillroom.server.depot_api import DepotApi
from stillroom.server.edge import FleetGate, PeerProtocol, cut, tls_context
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.membership import Members, Peer
from stillroom.server.site_api import SiteApi
from stillroom.server.starts import note_start

MOST_BYTES = 16 << 20


class Revocable(Members):
    """Members, and a set of names that are out."""

    out: set[str]

    def refusal(self, peer: Peer | None) -> str | None:
        """As the registry would say it."""
        return "revoked" if peer and peer.site in self.out else super().refusal(peer)


@dataclass
class Edge:
    """The edge of a server, in a thread of its own."""

    folder: Path
    papers: Path
    port: int = 0
    record: EdgeRecord = field(default_factory=EdgeRecord)

    def _arrived(self, site: str) -> bool:
        note_start(self.folder / "arrivals", site)
        return True

    def start(self) -> "Edge":
        """Listen, on the port of last time."""
        self.depot = Depot(self.folder / "depot", MOST_BYTES)
        self.members = Revocable(load_certificate(self.papers / "ca.pem"), None)
        self.members.out = set()
        api = SiteApi(None, {}, DepotApi(self.depot), self._arrived)
        papers = (self.papers / "ca.pem", self.papers / "server.pem", self.papers / "server.key")
        context = tls_context(*papers, self.record)

        async def nothing(scope: Any, receive: Any, send: Any) -> None:
            """No Flower behind this edge."""

        self._server = uvicorn.Server(
            uvicorn.Config(
                FleetGate(nothing, self.record, self.members, api),
                lifespan="off",
                http=PeerProtocol,
                ssl_context_factory=lambda _config, _default: context,
                log_level="critical",
                access_log=False,
            )
        )
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", self.port))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    async def _run(self) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not serving.done():
            await asyncio.sleep(0.05)
            connections = list(self._server.server_state.connections)
            cut(connections, self.members, self.record)
            if self._server.should_exit:
                for connection in connections:
                    connection.transport.abort()

    def stop(self) -> None:
        """As a server that ends, with its connections."""
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()


class Line:
    """A TCP line to the edge that breaks after so many bytes, again and again if asked to.

    Attributes:
        up: Bytes that may still pass from site to server before a break, one number a break.
        down: The same from server to site.
        connect: Speak CONNECT first, as a hospital's proxy does.
        refuse: An HTTP status with which CONNECT is refused.
    """

    def __init__(self, to: int) -> None:
        self._to, self.up, self.down = to, list[int](), list[int]()
        self.connect, self.refuse, self.asked = False, "", list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                if self.connect:
                    self.asked.append(near.recv(4096))
                    near.sendall(f"HTTP/1.1 {self.refuse or '200 OK'}\r\n\r\n".encode())
                    if self.refuse:
                        near.close()
                        continue
                far = socket.create_connection(("127.0.0.1", self._to))
                for ends, limits in (((near, far), self.up), ((far, near), self.down)):
                    threading.Thread(target=self._pump, args=(*ends, limits), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limits: list[int]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(32768):
                sink.sendall(piece)
                if limits:
                    limits[0] -= len(piece)
                    if limits[0] <= 0:
                        limits.pop(0)
                        break
        for end in (source, sink):  # wakes the other direction too
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@dataclass(frozen=True)
class Blob:
    """A file of random bytes and its name."""

    path: Path
    sha256: str
    nbytes: int


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<who>.pem`` and ``<who>.key`` of two sites and a server, ``ca.pem``, and a foreign CA."""
    folder, now = tmp_path_factory.mktemp("papers"), datetime.now(UTC)
    ca, ca_key = make_ca("Example consortium", 365, now)
    write_certificate(folder / "ca.pem", ca)
    write_certificate(folder / "foreign.pem", make_ca("Another", 365, now)[0])
    for who in ("north", "south", "server"):
        key = new_key()
        if who == "server":
            made = issue_server(ca, ca_key, key.public_key(), ["127.0.0.1"], now)
        else:
            made = issue_site(ca, ca_key, key.public_key(), who, now)
        write_key(folder / f"{who}.key", key)
        write_certificate(folder / f"{who}.pem", made)
    return folder


@pytest.fixture
def edge(tmp_path: Path, papers: Path) -> Iterator[Edge]:
    """A running edge with an empty depot."""
    made = Edge(tmp_path / "server", papers).start()
    yield made
    made.stop()


@pytest.fixture
def line(edge: Edge) -> Iterator[Line]:
    """A line to it."""
    made = Line(edge.port)
    yield made
    made.close()


@pytest.fixture
def context(papers: Path) -> Callable[..., ssl.SSLContext]:
    """What a site shows and accepts."""

    def make(who: str = "north", ca: str = "ca") -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(papers / f"{ca}.pem")
        made.load_cert_chain(papers / f"{who}.pem", papers / f"{who}.key")
        return made

    return make


@pytest.fixture
def stop() -> threading.Event:
    """Ends a transfer."""
    return threading.Event()


@pytest.fixture
def transfer(
    context: Callable[..., ssl.SSLContext], stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Transfer]]:
    """Makes a site's side of it; no proxy from outside gets in between."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    made: list[Transfer] = []

    def make(port: int, who: str = "north", ca: str = "ca", **more: Any) -> Transfer:
        made.append(Transfer(f"127.0.0.1:{port}", lambda: context(who, ca), stop, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def blob(tmp_path: Path) -> Callable[..., Blob]:
    """Makes files."""

    def make(nbytes: int = 8 << 20, seed: int = 0) -> Blob:
        data = np.random.default_rng(seed).bytes(nbytes)
        digest = hashlib.sha256(data).hexdigest()
        path = tmp_path / "files" / digest
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return Blob(path, digest, nbytes)

    return make
