"""What a server's doctor looks at: one server.toml, read once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from stillroom.server.config import ServerConfig
from stillroom.server.store.members import SiteRecord
from stillroom.server.store.registry import Registry


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Examination:
    """One server, looked at now.

    Attributes:
        path: server.toml.
        clock: Aware, UTC.
        patience_s: Longest wait for an answer of our own listeners.
    """

    path: Path
    clock: Callable[[], datetime] = _now
    patience_s: float = 3.0

    @cached_property
    def config(self) -> ServerConfig:
        """server.toml; raises ConfigError."""
        return ServerConfig.load(self.path)

    @cached_property
    def sites(self) -> tuple[SiteRecord, ...]:
        """Every site of the registry; none where there is no registry."""
        if self.config.registry is None:
            return ()
        with Registry(self.config.registry, read_only=True) as registry:
            return registry.sites()

    @cached_property
    def traffic(self) -> dict[str, Any]:
        """What the edge has seen of each site since it started; empty before that."""
        try:
            record = json.loads((self.config.state / "edge" / "edge.json").read_text("utf-8"))
            return dict(record["sites"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def now(self) -> datetime:
        """By this machine's clock."""
        return self.clock()
