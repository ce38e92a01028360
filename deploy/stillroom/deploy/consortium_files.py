"""Keys, certificates and configuration files of a rehearsed consortium."""

import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from stillroom.client.agreement import Agreement
from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, give_consent
from stillroom.common.enrolment import key_request
from stillroom.common.pki.files import (
    load_certificate,
    load_key,
    load_signing_key,
    write_key,
    write_signing_key,
)
from stillroom.common.pki.issue import new_key
from stillroom.common.signed_study import sign_study
from stillroom.common.signing import new_signing_key
from stillroom.server.consents import receive
from stillroom.server.enrolment import Authority, enrol_by_file
from stillroom.server.foundation import Papers, first_log, found
from stillroom.server.logbook import Logbook
from stillroom.server.store.registry import Registry

NAME = "stillroom rehearsal"
CONSENT_DAYS = 2
"""A rehearsal's consents are of no use the day after tomorrow."""


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


def found_consortium(layout: Layout, sites: Sequence[str]) -> None:
    """What ``stillroom-server init`` makes, and every site enrolled by the path for files.

    Nothing is simulated: the same keys, papers, registry and checks as in the field, without the
    telephone call.
    """
    now = datetime.now(UTC)
    found(layout.server, NAME, ["127.0.0.1", "localhost"], now)
    papers = Papers(layout.server)
    authority = Authority(load_certificate(papers.ca), load_key(papers.ca_key))
    book = logbook(layout)
    with Registry(papers.registry, note=book.note) as registry:
        for name in sites:
            folder = layout.site(name)
            folder.mkdir(parents=True, exist_ok=True)
            key, signing = new_key(), new_signing_key()
            issued = enrol_by_file(registry, authority, name, key_request(key, signing), now)
            write_key(folder / "site.key", key)
            write_signing_key(folder / "signing.key", signing)
            (folder / "site.pem").write_text(issued.pem, "ascii")
            shutil.copyfile(papers.ca, folder / "ca.pem")
            shutil.copyfile(papers.consortium, folder / "consortium.json")


def logbook(layout: Layout) -> Logbook:
    """The consortium's log, with the key that signs it."""
    papers = Papers(layout.server)
    return first_log(papers, NAME, load_signing_key(papers.log_key))


def agree(layout: Layout, sites: Sequence[str]) -> None:
    """The operator signs the study, and every site consents to it; as the two commands do."""
    sign_study(layout.study, load_signing_key(Papers(layout.server).operator_key))
    for name in sites:
        config = SiteConfig.load(layout.site_config(name))
        digest = Agreement.open(config).prepared.digest
        key = load_signing_key(config.signing_key)
        give_consent(
            ConsentBook.below(config.exchange), key, study=digest, site=name, days=CONSENT_DAYS
        )


def tell_server(layout: Layout, sites: Sequence[str]) -> None:
    """What the couriers do at their start, where there is no courier."""
    with Registry(Papers(layout.server).registry, note=logbook(layout).note) as registry:
        for name in sites:
            for record in ConsentBook.below(
                SiteConfig.load(layout.site_config(name)).exchange
            ).all():
                receive(name, record, registry)


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
        "registry": "registry.db",
        "consortium": "consortium.json",
        "log_key": "log.key",
        "tls": {
            "ca": "ca.pem",
            "ca_key": "ca.key",
            "certificate": "server.pem",
            "private_key": "server.key",
        },
    }
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path


def write_site_config(
    layout: Layout,
    name: str,
    *,
    server_port: int,
    data: Sequence[Path],
    labels: Mapping[str, Any],
    threads: int,
    seed: int,
    runtime_port: int | None = None,
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
        "consortium": "consortium.json",
        "signing_key": "signing.key",
        "runner_secret": "runner.secret",
        "device": "auto",
        "threads": threads,
        "poll_s": 0.4,
        "tls": {"ca": "ca.pem", "certificate": "site.pem", "private_key": "site.key"},
        "labels": dict(labels),
    }
    if runtime_port is not None:
        config["runtime_port"] = runtime_port
    path = layout.site_config(name)
    path.write_text(tomli_w.dumps(config), "utf-8")
    return path
