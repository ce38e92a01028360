"""The one file an operator edits: ``server.toml``. Keys are documented here."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, FilePath

from stillroom.common.settings import Section, checked, read_toml

IN_MEMORY = ":flwr-in-memory:"
"""Flower's name for a state without a file."""
Port = Annotated[int, Field(ge=1, le=65535)]


class TlsSection(Section):
    """Paths only: a private key never travels through this object."""

    ca: FilePath
    """The consortium's CA certificate (PEM): sites are accepted only if it issued them."""
    certificate: FilePath
    """The server's certificate (PEM), with every name or address sites dial in its SAN."""
    private_key: FilePath
    """Its key (PEM), readable by the service user alone."""
    ca_key: FilePath | None = None
    """The CA's key (PEM, 0600): certifies sites when they enrol and renew. Absent: nobody can."""


class ServerConfig(Section):
    """Everything the operator decides for one server."""

    state: Path
    """Which runs there are, files of weights on their way, what the edge saw, the SuperExec secret;
    Flower's database where there is no registry."""
    edge_host: str = "0.0.0.0"  # noqa: S104  # the edge is the one listener meant for other machines
    """Address of the listener that hospitals reach: mutual TLS 1.3, ``/v1/fleet/`` and
    ``/v1/stillroom/`` only."""
    edge_port: Port = 443
    enrol_port: Port | None = None
    """Listener for hospitals that have no certificate yet: TLS 1.3, a one-time token. Absent: closed."""
    registry: Path | None = None
    """Enrolled sites (made by ``init``): only they get in. Absent: every certificate of the CA does."""
    consortium: Path | None = None
    """The consortium's signed description, handed to sites that enrol (made by ``init``)."""
    log_key: Path = Path("log.key")
    """Signs the consortium's log (PEM, 0600; made by ``init``). Used where ``consortium`` names it."""
    log_guard: Path | None = None
    """What was last promised of the log; on another disk than ``state``, if there is one. Without it
    ``log.guard`` in ``state``, which a backup restores together with the log that it should guard."""
    inner_port: Port = 8000
    """Loopback listener for Control and Runtime. Never reachable from another machine."""
    poll_s: Annotated[float, Field(gt=0, le=10)] = 2.0
    """Longest pause between two looks for replies; the first ones in a round are 20 ms apart."""
    connect_s: Annotated[float, Field(gt=0)] = 600.0
    """How long a run waits for its sites to connect before it starts with those present."""
    max_blob_mib: Annotated[int, Field(ge=1, le=65536)] = 2048
    """Largest file of weights taken from a site."""
    tls: TlsSection

    @property
    def secret_file(self) -> Path:
        """Shared by the inner listener and the SuperExec; made on first start, mode 0600."""
        return self.state / "superexec.secret"

    @property
    def database(self) -> str:
        """Flower's state, as it names such things.

        In memory where there is a registry, from which nodes are registered again after a restart:
        all else that a run needs is in its folder. A SQLite file costs the server 1 s of processor
        time in a round of three sites (docs/adr/0019), and is left to servers without a registry,
        whose list of nodes would be lost.
        """
        return str(self.state / "flower.db") if self.registry is None else IN_MEMORY

    @property
    def depot(self) -> Path:
        """Files of weights on their way: published ones, and what sites have sent."""
        return self.state / "depot"

    @property
    def arrivals(self) -> Path:
        """A file for every site, new each time its courier starts."""
        return self.state / "arrivals"

    @property
    def runs(self) -> Path:
        """The table of runs, and of what is wanted of each."""
        return self.state / "runs.db"

    @property
    def log(self) -> Path:
        """The consortium's log, as it is published: ``checkpoint`` and ``tile/``."""
        return self.state / "log"

    @property
    def guard(self) -> Path:
        """The file of ``log_guard``, or where it is without that."""
        return self.log_guard or self.state / "log.guard"

    @property
    def cosigned(self) -> Path:
        """The newest checkpoint that each site has cosigned."""
        return self.state / "cosigned"

    @property
    def inner_address(self) -> str:
        """Host and port of the loopback listener."""
        return f"127.0.0.1:{self.inner_port}"

    @classmethod
    def load(cls, path: Path) -> "ServerConfig":
        """Read and validate ``path``; relative paths in it are relative to its folder.

        Raises:
            ConfigError: STR-101 unreadable, STR-102 not TOML or a bad key. Names keys, never values.
        """
        raw = read_toml(path)
        here = path.resolve().parent
        raw.setdefault("log_key", "log.key")
        for key in ("state", "registry", "consortium", "log_key", "log_guard"):
            if isinstance(raw.get(key), str):
                raw[key] = here / raw[key]
        if isinstance(raw.get("tls"), dict):
            raw["tls"] = {
                key: here / value if isinstance(value, str) else value
                for key, value in raw["tls"].items()
            }
        return checked(cls, raw, what=str(path), page="server-config.md")
