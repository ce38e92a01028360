"""Flower's list of nodes, kept as the registry says; and what waits for a node that is slow or new.

What this relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography import x509
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkState
from flwr.supercore.constant import NodeStatus

from stillroom.common.errors import StillroomError
from stillroom.common.messages import INVENTORY, MESSAGE_TYPES, ROUND, STAGE
from stillroom.common.pki.verify import flower_public_key
from stillroom.server.config import ServerConfig
from stillroom.server.operator import Operator
from stillroom.server.store.members import ENROLLED
from stillroom.server.store.registry import Registry

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
OVERTAKEN = frozenset(MESSAGE_TYPES[kind] for kind in (INVENTORY, ROUND, STAGE))
"""Messages that are of no use once their run has asked something newer."""


def take_offline(state: LinkState, site: str) -> bool:
    """Have Flower let the courier of ``site`` in again; whether Flower knows a node of that name.

    A courier that was killed said no goodbye: Flower takes it for connected until a minute has
    passed without a heartbeat, and lets no other one in under its key before.
    """
    known = [
        node
        for node in state.get_node_info()
        if node.name == site and node.status != NodeStatus.UNREGISTERED
    ]
    for node in known:
        if node.status == NodeStatus.ONLINE:
            state.deactivate_node(node.node_id)
    return bool(known)


def withdraw_overtaken(state: LinkState) -> int:
    """Take back what waits for a site although its run has asked something newer; returns how many.

    Flower hands out the oldest task first. A site that was late would begin with rounds that
    closed long ago, and train those whose model it still has. What it has taken already it ends;
    labelling is left to it, for its pseudo-labels serve itself in later rounds.
    """
    if not isinstance(state, InMemoryLinkState):
        return 0  # in a file, for trials: nobody looks into that from here
    count = 0
    with state.lock:
        known = [message.metadata for message in state.message_ins_store.values()]
        newest: dict[int, int] = {}
        for one in known:
            newest[one.run_id] = max(_turn(one.group_id), newest.get(one.run_id, -1))
        for one in known:
            overtaken = _turn(one.group_id) < newest[one.run_id]
            if overtaken and one.message_type in OVERTAKEN and one.delivered_at == "":
                # Not removed: Flower fails whoever still looks for answers to what it has not.
                one.delivered_at = datetime.now(UTC).isoformat()
                count += 1
    return count


def _turn(group_id: str) -> int:
    """Which asking of its run a message belongs to, as ``exchange`` numbers them."""
    return int(group_id) if group_id.isdecimal() else -1


async def keep_in_step(config: ServerConfig, path: Path, done: asyncio.Event) -> None:
    """Have Flower know exactly the enrolled sites' keys, now and after every change.

    The registry decides; Flower's list follows. An approval or a revocation is one transaction
    in one file, and a server that was down or crashed catches up when it starts.

    Args:
        config: Of the server.
        path: Of the registry.
        done: Set once the lists agree for the first time.
    """
    version: int | None = None
    with Registry(path, read_only=True) as registry:
        while True:
            present = registry.version()
            if present != version:
                wanted = {
                    flower_public_key(certificate.public_key()): site.name
                    for site in registry.sites()
                    if site.status == ENROLLED and site.certificate_pem is not None
                    for certificate in (
                        x509.load_pem_x509_certificate(site.certificate_pem.encode("ascii")),
                    )
                }
                if await asyncio.to_thread(_match_nodes, config, wanted):
                    version = present
                    done.set()
            await asyncio.sleep(LOOK_EVERY_S)


def _match_nodes(config: ServerConfig, wanted: Mapping[bytes, str]) -> bool:
    """Register missing keys with Flower and unregister all others; False when it has to be repeated."""
    operator = Operator(config)
    try:
        known = operator.keys()
        for key, name in wanted.items():
            if key not in known:
                operator.register(name, key)
        for key in known.keys() - wanted.keys():
            operator.unregister(known[key])
    except (httpx.HTTPError, StillroomError):
        log.warning("server.nodes_not_in_step")
        return False
    finally:
        operator.close()
    return True
