"""Flower's own SuperLink application behind its listeners.

::

    inner  127.0.0.1            Control and Runtime: operator, SuperExec, ServerApp
    edge   the world, mTLS 1.3  /v1/fleet/ and /v1/stillroom/: hospitals (see ``edge``)
    door   the world, TLS 1.3   enrolment with a one-time token; optional (see ``door``)

Flower is neither forked nor patched: ``create_app`` gives the application, uvicorn serves it twice.
Where there is a registry, Flower keeps its state in memory: nodes follow the registry, and a run goes
on from its own folder (``keeper``). ``isolation="process"``: a study is a process of its own.

What this module relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from typing_extensions import override

from stillroom.common.errors import ResourceError
from stillroom.common.pki.files import check_pair, load_certificate, load_key
from stillroom.server.bells import REPLIES, TASKS, Belfry, Bell
from stillroom.server.config import ServerConfig
from stillroom.server.consents import receive as receive_consent
from stillroom.server.depot import Depot
from stillroom.server.depot_api import DepotApi
from stillroom.server.descriptions import description
from stillroom.server.door import door_app, door_context
from stillroom.server.edge import EdgeRecord, FleetGate, PeerProtocol, cut, tls_context
from stillroom.server.enrolment import Authority, load_consortium, open_registry
from stillroom.server.keeper import LOOK_EVERY_S, Keeper
from stillroom.server.layers import without_idle_layers
from stillroom.server.log_api import COSIGN, LogApi, cosign
from stillroom.server.logbook import Logbook, open_logbook
from stillroom.server.membership import Members
from stillroom.server.nodes import keep_in_step, take_offline
from stillroom.server.operator import Operator
from stillroom.server.reconciliation import reconcile
from stillroom.server.refusals import keep_refusals
from stillroom.server.site_api import PREFIX, Handler, SiteApi, renewal
from stillroom.server.starts import note_start
from stillroom.server.store.journal import Journal
from stillroom.server.store.registry import Registry
from stillroom.server.superexec import superexec_secret

log = logging.getLogger(__name__)

RECORD_EVERY_S = 2.0
"""How often ``edge.json`` is refreshed while something changed."""
CUT_EVERY_S = 0.5
"""How long a connection of a revoked site may stay open."""
GRACE_S = 2.0
"""How long a request under way may take to end when the server stops."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs two of them."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: ServerConfig) -> None:
    """Run the listeners until SIGINT or SIGTERM.

    Raises:
        ResourceError: STR-501 when a port is taken.
        TrustError: STR-202 when a private key is readable by others, STR-203 when one does not
            belong to its certificate, STR-221 when the log does not continue what was promised.
        ConfigError: STR-101 when the registry or the consortium's description cannot be read.
    """
    tls = config.tls
    check_pair(load_certificate(tls.certificate), load_key(tls.private_key))
    book = open_logbook(config)
    if book is not None:
        _settle_log(config, book)
    record = EdgeRecord()
    context = tls_context(tls.ca, tls.certificate, tls.private_key, record)
    config.state.mkdir(parents=True, exist_ok=True)
    secret = superexec_secret(config)
    with contextlib.ExitStack() as stack:
        inner_socket = stack.enter_context(_bind("127.0.0.1", config.inner_port))
        edge_socket = stack.enter_context(_bind(config.edge_host, config.edge_port))
        members = stack.enter_context(
            contextlib.closing(Members(load_certificate(tls.ca), config.registry))
        )
        app = without_idle_layers(create_app(_lifespan_config(config, secret), SuperLinkLifespan))
        tasks, replies = Bell(), Bell()
        inside = Belfry(app, {TASKS: tasks}, replies)
        inner = _Listener(uvicorn.Config(inside, log_level="warning", access_log=False, workers=1))
        edge = _Listener(
            uvicorn.Config(
                FleetGate(
                    Belfry(app, {REPLIES: replies}),
                    record,
                    members,
                    _site_api(config, app, tasks, book),
                ),
                lifespan="off",
                http=PeerProtocol,
                ssl_context_factory=lambda _config, _default: context,
                log_level="warning",
                access_log=False,
                server_header=False,
            )
        )
        listeners = [(edge, edge_socket)]
        if config.enrol_port is not None:
            door_socket = stack.enter_context(_bind(config.edge_host, config.enrol_port))
            listeners.append((_door(config), door_socket))
        nodes_known = asyncio.Event()
        chores = [
            _keep_record(record, Journal(config.state / "edge")),
            _keep_out(edge, members, record),
            _keep_runs(config, nodes_known),
        ]
        if book is not None:
            chores.append(keep_refusals(record, book))
        if config.registry is None:
            nodes_known.set()
        else:
            chores.append(keep_in_step(config, config.registry, nodes_known))
        asyncio.run(_serve_all((inner, inner_socket), listeners, chores, (tasks, replies)))


def _settle_log(config: ServerConfig, book: Logbook) -> None:
    """Finish an append that was cut short, refuse a log that was restored, add what it lacks."""
    with contextlib.ExitStack() as stack:
        registry = None
        if config.registry is not None:
            registry = stack.enter_context(Registry(config.registry, read_only=True))
        count = reconcile(book, load_consortium(config), registry)
    log.info("log.settled", extra={"note": f"{book.size()} entries, {count} of them just added"})


def _site_api(
    config: ServerConfig, app: FastAPI, tasks: Bell, book: Logbook | None = None
) -> SiteApi:
    """What sites may ask of us; where nobody is enrolled, only about files of weights."""
    handlers: dict[str, Handler] = {f"{PREFIX}consent": consent}
    if config.consortium is not None:
        handlers[f"{PREFIX}consortium"] = description(config.consortium)
    if config.tls.ca_key is not None and config.registry is not None:
        handlers[f"{PREFIX}renew"] = renewal(Authority.load(config))
    depot = DepotApi(Depot(config.depot, config.max_blob_mib << 20))
    arrived = partial(_arrived, config, app)
    if book is None:
        return SiteApi(config.registry, handlers, depot, arrived, tasks)
    handlers[f"{PREFIX}{COSIGN}"] = cosign(book)
    return SiteApi(
        config.registry,
        handlers,
        depot,
        arrived,
        tasks,
        note=book.note,
        log_api=LogApi(config.log),
    )


def _arrived(config: ServerConfig, app: FastAPI, site: str) -> bool:
    """A courier has started; whether its key is known to Flower, or is about to be."""
    note_start(config.arrivals, site)
    known = take_offline(app.state.linkstate_factory.state(), site)
    return known or config.registry is not None


def consent(site: str, body: bytes, registry: Registry) -> dict[str, Any]:
    """The handler of ``/v1/stillroom/consent``."""
    receive_consent(site, body, registry)
    return {}


def _door(config: ServerConfig) -> _Listener:
    """The enrolment listener.

    Raises:
        ConfigError: STR-102, server.toml names no registry or no consortium description.
    """
    open_registry(config).close()
    consortium, tls = load_consortium(config), config.tls
    return _Listener(
        uvicorn.Config(
            door_app(cast("Path", config.registry), consortium.raw),
            lifespan="off",
            ssl_context_factory=lambda _config, _default: door_context(
                tls.certificate, tls.private_key
            ),
            log_level="warning",
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=16 * 1024,
            http="h11",
            proxy_headers=False,
            limit_concurrency=64,
        )
    )


async def _serve_all(
    inner: tuple[uvicorn.Server, socket.socket],
    outer: Sequence[tuple[uvicorn.Server, socket.socket]],
    chores: Sequence[Coroutine[Any, Any, None]],
    bells: Sequence[Bell],
) -> None:
    """Serve on every socket; those that others reach open only once the application is up."""
    loop = asyncio.get_running_loop()
    servers = [inner[0], *(server for server, _ in outer)]

    def cut_all() -> None:
        for server, _ in outer:
            for connection in list(server.server_state.connections):
                connection.transport.abort()

    def stop() -> None:
        for server in servers:
            server.should_exit = True
        for bell in bells:
            bell.close()
        # A file of weights may be on its way for an hour; it goes on when we are back.
        loop.call_later(GRACE_S, cut_all)

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    serving = asyncio.create_task(inner[0].serve(sockets=[inner[1]]))
    while not inner[0].started and not serving.done():
        await asyncio.sleep(0.02)
    tasks = [asyncio.create_task(chore) for chore in chores]
    await asyncio.gather(serving, *(server.serve(sockets=[listener]) for server, listener in outer))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _keep_out(edge: uvicorn.Server, members: Members, record: EdgeRecord) -> None:
    """Cut open connections of sites that are no longer in."""
    while True:
        await asyncio.sleep(CUT_EVERY_S)
        cut(list(edge.server_state.connections), members, record)


async def _keep_runs(config: ServerConfig, nodes_known: asyncio.Event) -> None:
    """Have a process go on with every wanted run that has none."""
    await nodes_known.wait()
    operator = Operator(config)
    keeper = Keeper(config.runs, operator)
    try:
        while True:
            await asyncio.to_thread(keeper.look)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        operator.close()


async def _keep_record(record: EdgeRecord, journal: Journal) -> None:
    """Write what the edge saw, whenever it changed."""
    last: object = None
    try:
        while True:
            now = record.as_json()
            if now != last:
                await asyncio.to_thread(journal.write, "edge.json", now)
                last = now
            await asyncio.sleep(RECORD_EVERY_S)
    finally:
        journal.write("edge.json", record.as_json())


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
        database=config.database,
        isolation="process",
        runtime_dependency_install=False,
    )


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
