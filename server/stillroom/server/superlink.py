"""Flower's own SuperLink application behind two listeners, and the calls an operator makes of it.

::

    inner  127.0.0.1            Control and Runtime: operator, SuperExec, ServerApp
    edge   the world, mTLS 1.3  /v1/fleet/ only: hospitals (see ``edge``)

Flower is neither forked nor patched: ``create_app`` gives the application, uvicorn serves it twice.
State is in SQLite and ``isolation="process"``, so a run outlives the SuperLink process.

What this module relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.superexec.run_superexec import run_superexec
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from typing_extensions import override

from stillroom.common.errors import ConfigError, ResourceError, TrustError
from stillroom.server.config import ServerConfig
from stillroom.server.edge import EdgeRecord, FleetGate, PeerProtocol, tls_context
from stillroom.server.store.journal import Journal

T = TypeVar("T")
RECORD_EVERY_S = 2.0
"""How often ``edge.json`` is refreshed while something changed."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs two of them."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: ServerConfig) -> None:
    """Run both listeners until SIGINT or SIGTERM.

    Raises:
        ResourceError: STR-501 when a port is taken.
        TrustError: STR-202 when the private key is readable by others.
    """
    _refuse_open_key(config.tls.private_key)
    tls = tls_context(config.tls.ca, config.tls.certificate, config.tls.private_key)
    config.state.mkdir(parents=True, exist_ok=True)
    secret = superexec_secret(config)
    with (
        _bind("127.0.0.1", config.inner_port) as inner_socket,
        _bind(config.edge_host, config.edge_port) as edge_socket,
    ):
        app = create_app(_lifespan_config(config, secret), SuperLinkLifespan)
        record = EdgeRecord()
        inner = _Listener(uvicorn.Config(app, log_level="warning", access_log=False, workers=1))
        edge = _Listener(
            uvicorn.Config(
                FleetGate(app, record),
                lifespan="off",
                http=PeerProtocol,
                ssl_context_factory=lambda _config, _default: tls,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        journal = Journal(config.state / "edge")
        asyncio.run(_serve_both(inner, inner_socket, edge, edge_socket, record, journal))


async def _serve_both(  # two listeners, what they share, and nothing else
    inner: uvicorn.Server,
    inner_socket: socket.socket,
    edge: uvicorn.Server,
    edge_socket: socket.socket,
    record: EdgeRecord,
    journal: Journal,
) -> None:
    """Serve on both sockets; the edge opens only once the application is up."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        inner.should_exit = edge.should_exit = True

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    serving = asyncio.create_task(inner.serve(sockets=[inner_socket]))
    while not inner.started and not serving.done():
        await asyncio.sleep(0.02)
    keeping = asyncio.create_task(_keep_record(record, journal))
    await asyncio.gather(serving, edge.serve(sockets=[edge_socket]))
    keeping.cancel()
    journal.write("edge.json", record.as_json())


async def _keep_record(record: EdgeRecord, journal: Journal) -> None:
    """Write what the edge saw, whenever it changed."""
    last: object = None
    while True:
        now = record.as_json()
        if now != last:
            await asyncio.to_thread(journal.write, "edge.json", now)
            last = now
        await asyncio.sleep(RECORD_EVERY_S)


def _lifespan_config(config: ServerConfig, secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=config.inner_port,
        insecure=True,  # of the inner, loopback listener; the edge never sees this setting
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(config.database),
        isolation="process",
        runtime_dependency_install=False,
    )


def execute(config: ServerConfig) -> None:
    """Run Flower's SuperExec: it starts the ServerApp of a run, with no installation at run time."""
    # flwr-serverapp is looked up on PATH; it must be the one beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["FLWR_HOME"] = str(config.state / "flwr")
    run_superexec(
        runtime_api_address=config.inner_address,
        insecure=True,
        superexec_auth_secret=superexec_secret(config),
        runtime_dependency_install=False,
    )


def superexec_secret(config: ServerConfig) -> bytes:
    """The secret that lets a SuperExec take tasks; made once, mode 0600."""
    path = config.secret_file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Made complete under another name and linked into place, so that two processes that
        # start together agree on the first one's secret.
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_hex(32).encode("ascii"))
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
        Path(name).unlink()
    return path.read_bytes()


class Operator:
    """What an operator asks of a running server, over the inner listener."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._client = ControlHttpClient.from_server_address(
            config.inner_address, insecure=True, root_certificates=None, interceptors=[]
        )

    def register(self, site: str, public_key_pem: bytes) -> int:
        """Allow a site's node key; returns Flower's node id."""
        answer = self._ask(
            self._client.RegisterNode, RegisterNodeRequest(public_key=public_key_pem, name=site)
        )
        return int(answer.node_id)

    def nodes(self) -> dict[str, str]:
        """Site name -> status of every registered node."""
        answer = self._ask(self._client.ListNodes, ListNodesRequest())
        return {node.name: node.status for node in answer.nodes_info}

    def start(self, study: Path, run: Path) -> int:
        """Start the study prepared in folder ``study``, recording into folder ``run``."""
        settings: dict[str, bool | float | int | str] = {
            "sites": ",".join(sorted(self.nodes())),
            "study": str(study.resolve()),
            "run": str(run.resolve()),
            "poll-s": self._config.poll_s,
            "connect-s": self._config.connect_s,
        }
        content = _bundle()
        answer = self._ask(
            self._client.StartRun,
            StartRunRequest(
                fab=fab_to_proto(Fab("", content, {})),
                override_config=user_config_to_proto(settings),
            ),
        )
        if not answer.HasField("run_id"):
            raise ResourceError(
                "The server did not start the run.", fix="Look at the server's log.", code="STR-502"
            )
        return int(answer.run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._ask(self._client.StopRun, StopRunRequest(run_id=run_id))

    def status(self, run_id: int) -> str:
        """Flower's status of a run, e.g. ``running`` or ``finished:completed``."""
        answer = self._ask(self._client.ListRuns, ListRunsRequest(run_id=run_id))
        run = answer.run_dict[run_id]
        return ":".join(part for part in (run.status.status, run.status.sub_status) if part)

    def _ask(self, method: Callable[[Any], T], request: Any) -> T:
        """One call.

        Raises:
            ResourceError: STR-504, no server at the inner address.
            ConfigError: The server does not know what was named.
        """
        try:
            return method(request)
        except httpx.TransportError as error:
            raise ResourceError(
                f"No server answers at {self._config.inner_address}.",
                fix="Start it with `stillroom-server serve`, on this machine.",
                code="STR-504",
            ) from error
        except httpx.HTTPStatusError as error:
            raise ConfigError(
                f"The server refused {method.__name__} (HTTP {error.response.status_code}).",
                fix="Check the name or number; its log says more.",
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _bundle() -> bytes:
    """The smallest FAB Flower accepts: it names the installed apps and carries no code of its own.

    Sites never fetch it; the server's SuperExec unpacks a pyproject.toml and a licence line.
    """
    project = """
[project]
name = "stillroom-study"
version = "1.0.0"
description = "Runs the installed stillroom ServerApp."
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "stillroom"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "stillroom.server.app:app"
clientapp = "stillroom.client.app:app"
[tool.flwr.app.config]
study = ""
run = ""
sites = ""
poll-s = 0.2
connect-s = 600.0
"""
    files = {"pyproject.toml": project.encode("utf-8"), "LICENSE": b"Apache-2.0\n"}
    content, _ = build_fab_from_files(files)
    return content


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything else starts so that a clash is told at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"Port {port} on {host} cannot be opened: {error.strerror}.",
            fix="Stop what uses it (see `ss -ltnp`), or change edge_port or inner_port.",
            code="STR-501",
        ) from error
    return listener


def _refuse_open_key(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise TrustError(
            f"The private key {path} is readable by others.",
            fix=f"Run `chmod 600 {path}`.",
            code="STR-202",
        )
