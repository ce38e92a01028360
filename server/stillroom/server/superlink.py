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
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from flwr.server.superlink.linkstate import LinkState
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from typing_extensions import override

from stillroom.common.pki.files import check_pair, load_certificate, load_key
from stillroom.common.shortcut import Shortcut
from stillroom.server.alive import SERVE, alive
from stillroom.server.bells import REPLIES, TASKS, Belfry, Bell
from stillroom.server.chores import heard_before, keep_out, keep_record, keep_runs
from stillroom.server.config import ServerConfig
from stillroom.server.consents import receive as receive_consent
from stillroom.server.depot import Depot
from stillroom.server.depot_api import DepotApi
from stillroom.server.descriptions import description
from stillroom.server.door import door_app, door_context
from stillroom.server.edge import FleetGate, PeerProtocol, tls_context
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.enrolment import Authority, load_consortium, open_registry
from stillroom.server.layers import without_idle_layers
from stillroom.server.listeners import Listener, bind, serve_all
from stillroom.server.log_api import COSIGN, LogApi, cosign
from stillroom.server.logbook import Logbook, open_logbook
from stillroom.server.membership import Members
from stillroom.server.nodes import keep_in_step, take_offline, withdraw_overtaken
from stillroom.server.objects import fleet_ways, runtime_ways
from stillroom.server.reconciliation import reconcile
from stillroom.server.refusals import keep_refusals
from stillroom.server.site_api import PREFIX, Handler, SiteApi, leaving, presence, renewal
from stillroom.server.starts import note_start
from stillroom.server.store.journal import Journal
from stillroom.server.store.registry import Registry
from stillroom.server.superexec import superexec_secret

log = logging.getLogger(__name__)


def serve(config: ServerConfig) -> None:
    """Run the listeners until SIGINT or SIGTERM.

    Raises:
        ResourceError: STR-501 when a port is taken.
        TrustError: STR-202 when a private key is readable by others, STR-203 when one does not
            belong to its certificate, STR-221 when the log does not continue what was promised.
        ConfigError: STR-101 when the registry or the consortium's description cannot be read.
    """
    # 1. Papers and log hold, or nothing is opened.
    tls = config.tls
    check_pair(load_certificate(tls.certificate), load_key(tls.private_key))
    book = open_logbook(config)
    if book is not None:
        _settle_log(config, book)
    record = EdgeRecord(heard=heard_before(config.state / "edge"))
    context = tls_context(tls.ca, tls.certificate, tls.private_key, record)
    config.state.mkdir(parents=True, exist_ok=True)
    secret = superexec_secret(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(alive(config, SERVE))
        # 2. The ports are ours.
        inner_socket = stack.enter_context(bind("127.0.0.1", config.inner_port))
        edge_socket = stack.enter_context(bind(config.edge_host, config.edge_port))
        authority = load_certificate(tls.ca)
        members = stack.enter_context(contextlib.closing(Members(authority, config.registry)))
        # 3. One application behind two listeners, and the door where there is one.
        app = without_idle_layers(create_app(_lifespan_config(config, secret), SuperLinkLifespan))
        tasks, replies = TaskBell(lambda: _link_state(app)), Bell()
        inside = Belfry(Shortcut(app, runtime_ways(app)), {TASKS: tasks}, replies)
        outside = Belfry(Shortcut(app, fleet_ways(app)), {REPLIES: replies})
        gate = FleetGate(outside, record, members, _site_api(config, app, tasks, record, book))
        edge = _edge(gate, context)
        listeners = [(edge, edge_socket)]
        if config.enrol_port is not None:
            door_socket = stack.enter_context(bind(config.edge_host, config.enrol_port))
            listeners.append((_door(config), door_socket))
        # 4. Until somebody stops it.
        inner = Listener(uvicorn.Config(inside, log_level="warning", access_log=False, workers=1))
        chores = [keep_out(edge, members, record), *_chores(config, record, book)]
        asyncio.run(serve_all((inner, inner_socket), listeners, chores, (tasks, replies)))


class TaskBell(Bell):
    """Rings when tasks were pushed; those that they have overtaken are taken back first.

    Args:
        state: Gives Flower's state.
    """

    def __init__(self, state: Callable[[], LinkState]) -> None:
        super().__init__()
        self._state = state

    @override
    def ring(self) -> None:
        # Closed, it rings for the last time, and perhaps before there is a state.
        if not self._closed and (count := withdraw_overtaken(self._state())):
            log.info("superlink.tasks_withdrawn", extra={"note": f"{count} overtaken"})
        super().ring()


def _edge(gate: FleetGate, context: ssl.SSLContext) -> Listener:
    """The listener that hospitals reach."""
    return Listener(
        uvicorn.Config(
            gate,
            lifespan="off",
            http=PeerProtocol,
            ssl_context_factory=lambda _config, _default: context,
            log_level="warning",
            access_log=False,
            server_header=False,
        )
    )


def _chores(
    config: ServerConfig, record: EdgeRecord, book: Logbook | None
) -> list[Coroutine[Any, Any, None]]:
    """What is done beside serving."""
    nodes_known = asyncio.Event()
    chores = [
        keep_record(record, Journal(config.state / "edge")),
        keep_runs(config, nodes_known),
    ]
    if book is not None:
        chores.append(keep_refusals(record, book))
    if config.registry is None:
        nodes_known.set()
    else:
        chores.append(keep_in_step(config, config.registry, nodes_known))
    return chores


def _settle_log(config: ServerConfig, book: Logbook) -> None:
    """Finish an append that was cut short, refuse a log that was restored, add what it lacks."""
    with contextlib.ExitStack() as stack:
        registry = None
        if config.registry is not None:
            registry = stack.enter_context(Registry(config.registry, read_only=True))
        count = reconcile(book, load_consortium(config), registry)
    log.info("log.settled", extra={"note": f"{book.size()} entries, {count} of them just added"})


def _site_api(
    config: ServerConfig,
    app: FastAPI,
    tasks: Bell,
    record: EdgeRecord,
    book: Logbook | None = None,
) -> SiteApi:
    """What sites may ask of us; where nobody is enrolled, only about files of weights."""
    handlers: dict[str, Handler] = {
        f"{PREFIX}consent": consent,
        f"{PREFIX}leave": leaving,
        f"{PREFIX}presence": presence(record.courier_heard),
    }
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
    known = take_offline(_link_state(app), site)
    return known or config.registry is not None


def _link_state(app: FastAPI) -> LinkState:
    state: LinkState = app.state.linkstate_factory.state()
    return state


def consent(site: str, body: bytes, registry: Registry) -> dict[str, Any]:
    """The handler of ``/v1/stillroom/consent``."""
    receive_consent(site, body, registry)
    return {}


def _door(config: ServerConfig) -> Listener:
    """The enrolment listener.

    Raises:
        ConfigError: STR-102, server.toml names no registry or no consortium description.
    """
    open_registry(config).close()
    consortium, tls = load_consortium(config), config.tls
    return Listener(
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
