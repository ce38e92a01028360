"""Keys, certificates and configuration files of a rehearsed consortium."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from stillroom.common.pki.files import write_certificate, write_key
from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key

CERTIFICATE_DAYS = 2
"""A rehearsal's certificates are of no use the day after tomorrow."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a rehearsal keeps things, below its output folder."""

    out: Path

    @property
    def study(self) -> Path:
        """The prepared study."""
        return self.out / "study"

    @property
    def run(self) -> Path:
        """Records and weights of the run."""
        return self.out / "run"

    @property
    def server(self) -> Path:
        """server.toml, the server's key and state."""
        return self.out / "server"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.out / "logs"

    def site(self, name: str) -> Path:
        """One hospital: site.toml, key, data, state."""
        return self.out / "sites" / name

    def site_config(self, name: str) -> Path:
        """The hospital's site.toml."""
        return self.site(name) / "site.toml"


def write_pki(layout: Layout, sites: Sequence[str]) -> None:
    """A CA, a server certificate for loopback, and one certificate per site."""
    now = datetime.now(UTC)
    ca, ca_key = make_ca("stillroom rehearsal", CERTIFICATE_DAYS, now)
    key = new_key()
    layout.server.mkdir(parents=True)
    certificate = issue_server(
        ca, ca_key, key.public_key(), ["127.0.0.1", "localhost"], now=now, days=CERTIFICATE_DAYS
    )
    write_key(layout.server / "server.key", key)
    write_certificate(layout.server / "server.pem", certificate)
    write_certificate(layout.server / "ca.pem", ca)
    for name in sites:
        folder = layout.site(name)
        folder.mkdir(parents=True, exist_ok=True)
        key = new_key()
        certificate = issue_site(ca, ca_key, key.public_key(), name, now=now, days=CERTIFICATE_DAYS)
        write_key(folder / "site.key", key)
        write_certificate(folder / "site.pem", certificate)
        write_certificate(folder / "ca.pem", ca)


def write_server_config(layout: Layout, *, edge_port: int, inner_port: int) -> Path:
    """The server's server.toml."""
    path = layout.server / "server.toml"
    config = {
        "state": "state",
        "edge_host": "127.0.0.1",
        "edge_port": edge_port,
        "inner_port": inner_port,
        "poll_s": 0.25,
        "connect_s": 120.0,
        "tls": {"ca": "ca.pem", "certificate": "server.pem", "private_key": "server.key"},
    }
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path


def write_site_config(
    layout: Layout,
    name: str,
    *,
    server_port: int,
    runtime_port: int,
    data: Sequence[Path],
    labels: Mapping[str, Any],
    threads: int,
    seed: int,
) -> Path:
    """A hospital's site.toml, the secret its two processes share, and its salt.

    In the field the salt of case identifiers is random and secret. Here it follows from the seed:
    the order of cases, and with it every weight, depends on it, and a rehearsal must be repeatable.
    """
    folder = layout.site(name)
    state = folder / "state"
    state.mkdir(exist_ok=True)
    (state / "salt").write_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest())
    (state / "salt").chmod(0o600)
    (folder / "runner.secret").write_bytes(secrets.token_hex(32).encode("ascii"))
    (folder / "runner.secret").chmod(0o600)
    config: dict[str, Any] = {
        "site": name,
        "server": f"127.0.0.1:{server_port}",
        "data": [str(path.resolve()) for path in data],
        "state": "state",
        "study": str(layout.study.resolve()),
        "runtime_port": runtime_port,
        "runner_secret": "runner.secret",
        "device": "auto",
        "threads": threads,
        "poll_s": 0.4,
        "tls": {"ca": "ca.pem", "certificate": "site.pem", "private_key": "site.key"},
        "labels": dict(labels),
    }
    path = layout.site_config(name)
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path
