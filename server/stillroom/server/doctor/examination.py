"""What a server's doctor looks at: one server.toml, read once."""

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from stillroom.server.alive import SERVE, is_alive
from stillroom.server.chores import RECORD, heard_before
from stillroom.server.config import ServerConfig
from stillroom.server.store.folder import RESULT
from stillroom.server.store.members import SiteRecord
from stillroom.server.store.registry import Registry
from stillroom.server.store.runs import ENDED, Run, Runs


@dataclass(frozen=True, slots=True)
class EdgeSeen:
    """Of ``edge.json``. Times are seconds since the epoch.

    Attributes:
        since: Start of the edge.
        heard: When each site was seen last, before that start as well.
        names_dialled: Asked for in handshakes, and not in the certificate.
    """

    since: float
    heard: Mapping[str, float]
    names_dialled: tuple[str, ...] = ()


def is_whole(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file of its own. Reads, changes nothing."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return bool(db.execute("PRAGMA quick_check").fetchone()[0] == "ok")
    except sqlite3.DatabaseError:
        return False


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Examination:
    """One server, looked at now.

    Attributes:
        path: server.toml.
        clock: Aware, UTC.
        patience_s: Longest wait for an answer of our own listeners.
        system: Root of what the kernel tells; another one only in tests.
    """

    path: Path
    clock: Callable[[], datetime] = _now
    patience_s: float = 3.0
    system: Path = Path("/")

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
    def edge(self) -> EdgeSeen | None:
        """What the edge has written down; None before its first start, or where it is damaged."""
        try:
            record = json.loads((self.config.state / "edge" / RECORD).read_bytes())
            return EdgeSeen(
                since=float(record.get("since", 0.0)),
                heard=heard_before(self.config.state / "edge"),
                names_dialled=tuple(map(str, record.get("names_dialled", {}))),
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    @cached_property
    def open_runs(self) -> tuple[Run, ...]:
        """Runs that have not ended and shall not; none where their table is damaged ("runs" says so)."""
        if not self.config.runs.exists() or not is_whole(self.config.runs):
            return ()
        with Runs(self.config.runs, read_only=True) as table:
            found = table.all()
        return tuple(
            run for run in found if run.wanted != ENDED and not (run.folder / RESULT).exists()
        )

    @cached_property
    def serves(self) -> bool:
        """Whether `serve` runs on this state."""
        return is_alive(self.config, SERVE)

    @property
    def now(self) -> datetime:
        """By this machine's clock."""
        return self.clock()
