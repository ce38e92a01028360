"""What the edge has seen: who, in which release, how much, and whom it refused and why."""

import re
import time
from collections import Counter
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from typing import Any

from stillroom.server.membership import Peer

HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
MOST_NAMES = 16
"""Names that are remembered: whoever dials is not known yet, and must not fill a file."""


@dataclass(slots=True)
class Traffic:
    """What the edge has seen of one site since it started."""

    certificate_sha256: str
    tls_version: str
    first_seen: float
    last_seen: float
    version: str | None = None
    """The release that its courier stated last; None from one that states none."""
    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    courier_at: float | None = None
    """When its courier last spoke to Flower; other requests may come from anybody at the site."""


@dataclass(slots=True)
class EdgeRecord:
    """Identities, versions and bytes as the edge saw them; refusals by reason."""

    sites: dict[str, Traffic] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    handshakes_refused: Counter[str] = field(default_factory=Counter)
    names_dialled: Counter[str] = field(default_factory=Counter)
    """Names that handshakes asked for and that the certificate does not have. Anybody may ask."""
    heard: dict[str, float] = field(default_factory=dict)
    """When sites were last seen before this start."""
    since: float = field(default_factory=time.time)
    """This start."""

    def as_json(self) -> dict[str, Any]:
        """For ``edge.json``."""
        return {
            "since": self.since,
            "heard": dict(sorted(self.heard.items())),
            "sites": {name: asdict(traffic) for name, traffic in sorted(self.sites.items())},
            "refused": dict(sorted(self.refused.items())),
            "handshakes_refused": dict(sorted(self.handshakes_refused.items())),
            "names_dialled": dict(sorted(self.names_dialled.items())),
        }

    def asked_for(self, name: str | None, names: Container[str]) -> None:
        """Note a name that somebody dials and that is none of ``names``, the certificate's."""
        if name is None or name in names or not HOST.fullmatch(name):
            return
        if name in self.names_dialled or len(self.names_dialled) < MOST_NAMES:
            self.names_dialled[name] += 1

    def courier_heard(self, site: str) -> float | None:
        """When ``site``'s courier last spoke to Flower, seconds since the epoch; None for never."""
        traffic = self.sites.get(site)
        return None if traffic is None else traffic.courier_at

    def seen(self, peer: Peer, now: float) -> Traffic:
        """The running record of ``peer``; a new certificate starts a new one."""
        traffic = self.sites.get(str(peer.site))
        if traffic is None or traffic.certificate_sha256 != peer.certificate_sha256:
            traffic = Traffic(peer.certificate_sha256, peer.tls_version, now, now)
            self.sites[str(peer.site)] = traffic
        traffic.last_seen = now
        traffic.tls_version = peer.tls_version
        traffic.requests += 1
        return traffic
