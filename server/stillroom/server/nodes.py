"""Flower's list of nodes, kept as the registry says, and a node whose courier has started anew.

What this relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import httpx
from cryptography import x509
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NodeStatus

from stillroom.common.errors import StillroomError
from stillroom.common.pki.verify import flower_public_key
from stillroom.server.config import ServerConfig
from stillroom.server.operator import Operator
from stillroom.server.store.members import ENROLLED
from stillroom.server.store.registry import Registry

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5


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
