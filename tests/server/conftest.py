"""A consortium's papers on disk, free ports, and the server's command line as a process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from stillroom.common.pki.files import load_certificate, write_certificate, write_key
from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key


@dataclass(frozen=True)
class Papers:
    """A folder with ``<who>.pem`` and ``<who>.key`` for everybody, and ``ca.pem``."""

    folder: Path

    def certificate(self, who: str) -> Path:
        """PEM file."""
        return self.folder / f"{who}.pem"

    def key(self, who: str) -> Path:
        """PEM file, mode 0600."""
        return self.folder / f"{who}.key"

    def public_key(self, who: str) -> bytes:
        """PEM SubjectPublicKeyInfo."""
        key = load_certificate(self.certificate(who)).public_key()
        return key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    edge: int
    inner: int


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Sites north, south and newcomer; one that did not renew; one of another CA; the server."""
    folder, now = tmp_path_factory.mktemp("papers"), datetime.now(UTC)
    then = now - timedelta(days=60)
    ca, ca_key = make_ca("Example consortium", 365, then)
    other, other_key = make_ca("Example consortium", 365, then)
    write_certificate(folder / "ca.pem", ca)
    for who in ("north", "south", "newcomer", "expired", "stranger", "server"):
        key = new_key()
        public = key.public_key()
        if who == "server":
            certificate = issue_server(ca, ca_key, public, ["127.0.0.1", "localhost"], now)
        elif who == "stranger":
            certificate = issue_site(other, other_key, public, "north", now)
        else:
            certificate = issue_site(ca, ca_key, public, who, then if who == "expired" else now)
        write_key(folder / f"{who}.key", key)
        write_certificate(folder / f"{who}.pem", certificate)
    return Papers(folder)


@pytest.fixture(scope="session")
def free_ports() -> Callable[[], Ports]:
    """Two loopback ports that nobody uses at this moment."""

    def ports() -> Ports:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            return Ports(one.getsockname()[1], two.getsockname()[1])

    return ports


@pytest.fixture(scope="session")
def write_server_toml(papers: Papers) -> Callable[..., Path]:
    """Writes a server.toml into a folder."""

    def write(folder: Path, ports: Ports, key: Path | None = None) -> Path:
        path = folder / "server.toml"
        path.write_text(
            f'state = "state"\nedge_host = "127.0.0.1"\nedge_port = {ports.edge}\n'
            f"inner_port = {ports.inner}\n[tls]\nca = '{papers.folder / 'ca.pem'}'\n"
            f"certificate = '{papers.certificate('server')}'\n"
            f"private_key = '{key or papers.key('server')}'\n"
        )
        return path

    return write


@dataclass(frozen=True)
class Server:
    """A running server process."""

    config: Path
    ports: Ports
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="session")
def server_command() -> Callable[..., list[str]]:
    """The command line of ``stillroom-server``."""

    def command(*arguments: str | Path) -> list[str]:
        return [sys.executable, "-P", "-m", "stillroom.server.cli", *map(str, arguments)]

    return command


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    free_ports: Callable[[], Ports],
    write_server_toml: Callable[..., Path],
    server_command: Callable[..., list[str]],
) -> Iterator[Server]:
    """``stillroom-server serve`` on loopback; must end with 0 on SIGTERM."""
    folder = tmp_path_factory.mktemp("server")
    ports = free_ports()
    config = write_server_toml(folder, ports)
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            server_command("serve", "--config", config),
            stdout=stream,
            stderr=stream,
            env={**os.environ, "FLWR_HOME": str(folder / "flwr")},
        )
    try:
        for port in (ports.inner, ports.edge):
            _wait_for(port, process, log)
        yield Server(config, ports, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"the server did not open port {port}:\n{log.read_text()}")
