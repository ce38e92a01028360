"""The courier: the one process of a hospital that has a network. It sees no patient data.

It keeps one mutual-TLS connection to the consortium's edge, outbound only, pulls messages, hands
them to the runner over a socket in a folder, and carries the runner's replies back. The code an
operator attaches to a run (Flower's FAB) is never asked for: the runner gets an empty one.

Flower's own SuperNode loop sleeps 3 s between polls, cannot show a client certificate and fetches
the FAB; this is a loop of our own on the same protocol, node state and Runtime API. What it relies
on in flwr 1.41 is held by tests/client/test_flower_contract.py.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supernode.nodestate import NodeState, NodeStateFactory

from stillroom.client.agreement import Agreement
from stillroom.client.breaks import Stopped
from stillroom.client.carriage import Carriage
from stillroom.client.consent_post import ConsentPost
from stillroom.client.descriptions import Descriptions
from stillroom.client.exchange import ExchangeFolder, runner_present
from stillroom.client.fleet import Edge
from stillroom.client.gate import Gate
from stillroom.client.ledger import NAME, Entry, Ledger, read
from stillroom.client.listener import runtime_listener
from stillroom.client.models import Models
from stillroom.client.outbox import Outbox
from stillroom.client.papers import check_papers, client_context
from stillroom.client.pausing import PauseWatch, mirror
from stillroom.client.pulse import PulseKeeper
from stillroom.client.renewal import EVERY_S, Renewal
from stillroom.client.transfer import Transfer
from stillroom.client.witness import Witness
from stillroom.common.errors import ResourceError
from stillroom.common.lifetime import patience
from stillroom.common.pki.files import load_certificate, load_signing_key
from stillroom.common.pki.verify import verify_site

log = logging.getLogger(__name__)

LOOK_ANYHOW_S = 20.0
"""Longest time between two looks for a message, however still the bell."""
AFTER_RING_S = 0.01
"""Shortest pause, whoever rings."""
ATTEND_S = 0.2
"""Pause between two looks whether somebody at this site has paused it, and whether the runner lives."""


@dataclass(frozen=True, slots=True)
class CourierSettings:
    """What a courier needs to know; made from ``site.toml``.

    Attributes:
        server: ``host:port`` of the consortium's edge.
        ca: The consortium's CA certificate.
        certificate: This site's certificate.
        private_key: Its key, which is also the Flower node key.
        runtime_port: Loopback port the runner talks to; None where it finds a socket in
            ``exchange``.
        secret: Shared with the runner; without it no task is handed out.
        agreement: The study and this site's consent to it; the gate lets nothing through outside
            it.
        state: The courier's own folder: the ledger, in which everything that leaves is entered
            first, and the outbox.
        exchange: The folder that the runner sees, too.
        study: Folder of the prepared study.
        consortium: Its description, which names the log's key; None in a trial without one.
        signing_key: Signs what this site has seen of the log; where it cannot be read, the courier
            looks and vouches for nothing.
        runner_grace_s: How long a task waits for a runner that is not running.
        poll_s: Shortest pause between two looks for work, where the server does not tell of any.
        renew_every_s: Pause between two questions for a newer certificate.
    """

    server: str
    ca: Path
    certificate: Path
    private_key: Path
    runtime_port: int | None
    secret: bytes
    agreement: Agreement
    state: Path
    exchange: Path
    study: Path
    consortium: Path | None = None
    signing_key: Path | None = None
    runner_grace_s: float = 60.0
    poll_s: float = 0.5
    renew_every_s: float = EVERY_S


def run_courier(settings: CourierSettings, stop: threading.Event) -> None:
    """Carry messages until ``stop`` is set.

    Raises:
        TrustError: This site or the server is not who it should be (STR-201, STR-202, STR-203,
            STR-206); the ledger (STR-220) is damaged; the consortium's log (STR-222) does not hold.
        ResourceError: STR-501 when the runtime port is taken; STR-507 when another courier has
            the ledger, STR-503 when its disk fails.
    """
    objects = ObjectStoreFactory()
    states = NodeStateFactory(objectstore_factory=objects)
    state, store = states.state(), objects.store()
    transfer = Transfer(
        settings.server,
        lambda: client_context(settings),
        stop,
        check=lambda: check_papers(settings),
    )
    edge = Edge(settings, stop, arrive=transfer.arrive)
    # The ledger's lock first: whoever has it is this site's courier.
    with Ledger(settings.state / NAME) as ledger, runtime_listener(states, settings) as ring:
        if ledger.torn is not None:
            log.warning("ledger.torn", extra={"note": f"{ledger.torn.name} holds a torn line"})
        pulse = PulseKeeper(settings.state)
        ledger.heard = pulse.entered
        carriage = _carriage(edge, state, store, ledger, transfer, settings, stop)
        witness = carriage.witness = _witness(settings, ledger, transfer)
        carriage.ring = ring
        carriage.paused = _pause_watch(ledger).lasts
        try:
            _attend(settings, pulse, stop)
            _tell_consents(settings, stop)
            _renew(edge, settings, stop)
            _follow_consortium(settings, stop)
            # This also says that what the courier before this one was given died with it: the
            # server gives it again.
            edge.activate()
            state.set_node_id(edge.node.node_id)
            pulse.connected()
            pulse.speaks(transfer.server_version)
            log.info("courier.connected")
            if witness is not None:
                witness.look()
            beat = threading.Thread(target=_beat, args=(edge, pulse, stop), daemon=True)
            beat.start()
            _work(carriage, transfer, witness, settings.poll_s, stop, pulse)
        except Stopped:
            log.info("courier.stopped")
        finally:
            transfer.close()
            edge.close()


def _work(
    carriage: Carriage,
    transfer: Transfer,
    witness: Witness | None,
    poll_s: float,
    stop: threading.Event,
    pulse: PulseKeeper,
) -> None:
    """Carry what there is; between two looks, wait for the server's bell, or a while without one.

    A site that is paused hears the bell and takes nothing.
    """
    seen, news, lost = "", time.monotonic(), False
    while not stop.is_set():
        paused = carriage.paused()
        if not paused and carriage.carry_one():
            pulse.idles()
            news = time.monotonic()
            continue
        looked = time.monotonic()
        while not stop.is_set() and time.monotonic() - looked < LOOK_ANYHOW_S:
            if carriage.paused() != paused:
                break
            if witness is not None:
                witness.look_when_idle()
            mark = transfer.news(seen)
            if mark is None:
                lost = True
                stop.wait(patience(time.monotonic() - news, poll_s))
                break
            pulse.contact()
            if lost and witness is not None:
                # A server that was away may have come back as an older one, or as another.
                witness.look()
            lost = False
            if mark != seen:
                seen = mark
                stop.wait(AFTER_RING_S)
                break


def _carriage(
    edge: Edge,
    state: NodeState,
    store: ObjectStore,
    ledger: Ledger,
    transfer: Transfer,
    settings: CourierSettings,
    stop: threading.Event,
) -> Carriage:
    """Everything a message passes on its way, put together."""
    agreement = settings.agreement
    prepared = agreement.prepared
    exchange = ExchangeFolder(settings.exchange).prepare()
    outbox = Outbox.below(settings.state, exchange, prepared)
    return Carriage(
        edge=edge,
        state=state,
        store=store,
        gate=Gate(prepared, ledger, outbox, agreement.require),
        models=Models(
            exchange, prepared, settings.study, transfer.fetch, settings.state / "models.json"
        ),
        send=transfer.send,
        stop=stop,
        runner_grace_s=settings.runner_grace_s,
    )


def _witness(settings: CourierSettings, ledger: Ledger, transfer: Transfer) -> Witness | None:
    """This site's eyes on the consortium's log; None where it joined no consortium."""
    if settings.consortium is None:
        return None
    key = None
    if settings.signing_key is not None and os.access(settings.signing_key, os.R_OK):
        key = load_signing_key(settings.signing_key)
    else:
        log.warning("witness.silent")
    return Witness(
        site=verify_site(
            load_certificate(settings.certificate),
            load_certificate(settings.ca),
            datetime.now(UTC),
        ).name,
        consortium=settings.consortium,
        state=settings.state,
        line=transfer,
        key=key,
        note=lambda: _note_stop(ledger),
    )


def _pause_watch(ledger: Ledger) -> PauseWatch:
    """Whether this site is paused; each change becomes a line of the ledger, across restarts."""
    told = [line.kind for line in read(ledger.path) if line.kind in {"paused", "resumed"}]

    def note(paused: bool) -> None:  # noqa: FBT001  # that is the message
        log.info("courier.paused" if paused else "courier.resumed")
        ledger.append(Entry(kind="paused" if paused else "resumed", decision="allowed"))

    return PauseWatch(ledger.path.parent, was=told[-1:] == ["paused"], note=note)


def _attend(settings: CourierSettings, pulse: PulseKeeper, stop: threading.Event) -> None:
    """Let the runner know of a pause, and write the pulse, in a thread of its own."""
    exchange = ExchangeFolder(settings.exchange)

    def attend() -> None:
        while True:
            try:
                mirror(settings.state, settings.exchange)
            except ResourceError:
                log.warning("courier.pause_not_told", extra={"code": "STR-503"})
            pulse.beat(runner=runner_present(exchange) is not None)
            if stop.wait(ATTEND_S):
                return

    threading.Thread(target=attend, daemon=True, name="attend").start()


def _note_stop(ledger: Ledger) -> None:
    ledger.append(Entry(kind="refused", decision="refused", code="STR-222"))


def _tell_consents(settings: CourierSettings, stop: threading.Event) -> None:
    """Before the server knows that this site is here: a study must not open without its yes."""
    if settings.agreement.consent is None:
        return
    post = ConsentPost(
        settings.agreement.consent.book, settings.server, lambda: client_context(settings)
    )
    post.until(stop)
    threading.Thread(target=post.keep_telling, args=(stop,), daemon=True).start()


def _renew(edge: Edge, settings: CourierSettings, stop: threading.Event) -> None:
    """Keep this site's certificate young, in a thread of its own."""
    renewal = Renewal(
        server=settings.server,
        ca=settings.ca,
        certificate=settings.certificate,
        private_key=settings.private_key,
        context=lambda: client_context(settings),
        renewed=edge.reconnect,
    )
    arguments = (stop, settings.renew_every_s)
    threading.Thread(target=renewal.keep_asking, args=arguments, daemon=True).start()


def _follow_consortium(settings: CourierSettings, stop: threading.Event) -> None:
    """Keep who may sign studies as new as the server's, in a thread of its own."""
    operators = settings.agreement.operators
    if operators is None:
        return
    asks = Descriptions(settings.server, operators.consortium, lambda: client_context(settings))
    threading.Thread(target=asks.keep_asking, args=(stop,), daemon=True).start()


def _beat(edge: Edge, pulse: PulseKeeper, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
        if edge.heartbeat():
            pulse.contact()
