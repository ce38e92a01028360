"""Founding a consortium: every key and paper a server needs, in one new folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stillroom.common.consortium import fingerprint, make_consortium, read_consortium
from stillroom.common.errors import ConfigError
from stillroom.common.log_identity import log_origin
from stillroom.common.pki.files import (
    load_certificate,
    load_key,
    load_signing_key,
    write_certificate,
    write_key,
    write_signing_key,
)
from stillroom.common.pki.issue import issue_server, make_ca, new_key
from stillroom.common.pki.names import server_san
from stillroom.common.signing import key_id, new_signing_key, public_key_from_hex, public_key_hex
from stillroom.common.tensorfile import write_durably
from stillroom.server.config import TlsSection
from stillroom.server.cosigned import Cosigned
from stillroom.server.descriptions import keep
from stillroom.server.enrolment import Authority
from stillroom.server.log import Log
from stillroom.server.logbook import Logbook
from stillroom.server.reconciliation import description_entry
from stillroom.server.store.members import OperatorRecord
from stillroom.server.store.registry import Registry
from stillroom.server.store.registry_file import Note

CA_DAYS = 3650
SERVER_DAYS = 397
FIRST_OPERATOR = "first operator"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens: hospitals, enrolment, and loopback."""

    edge: int = 443
    enrol: int = 8443
    inner: int = 8000


@dataclass(frozen=True, slots=True)
class Papers:
    """The files of a consortium, below the folder ``init`` made."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The CA certificate."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The CA's key: certifies sites."""
        return self.folder / "ca.key"

    @property
    def server(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The server's key."""
        return self.folder / "server.key"

    @property
    def operator_key(self) -> Path:
        """The first operator's key: signs studies. Belongs off this machine."""
        return self.folder / "operator.key"

    @property
    def log_key(self) -> Path:
        """The log's key."""
        return self.folder / "log.key"

    @property
    def consortium(self) -> Path:
        """The signed description."""
        return self.folder / "consortium.json"

    @property
    def registry(self) -> Path:
        """Sites and operators."""
        return self.folder / "registry.db"

    @property
    def config(self) -> Path:
        """server.toml."""
        return self.folder / "server.toml"


def found(
    folder: Path, name: str, hosts: Sequence[str], now: datetime, *, ports: Ports | None = None
) -> str:
    """Make a consortium in ``folder``; returns the CA's fingerprint (hex).

    Args:
        folder: Absent or empty.
        name: The consortium's, for people.
        hosts: DNS names and addresses that sites dial.
        now: Aware time of issue.
        ports: Of the listeners; 443, 8443 and 8000 when left out.

    Raises:
        ConfigError: STR-107 the folder is not empty; STR-100, STR-102 a name cannot be used.
    """
    server_san(hosts)  # a mistyped host is told before anything exists
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} already holds something.", fix="Name a new or empty folder.", code="STR-107"
        )
    ca, ca_key = make_ca(name[:64] or "stillroom", CA_DAYS, now)
    operator, log_key, server_key = new_signing_key(), new_signing_key(), new_key()
    operators = {FIRST_OPERATOR: operator.public_key()}
    description = make_consortium(
        name, ca, ca_key, operators, operator, now, log_key=log_key.public_key()
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    papers = Papers(folder)
    write_key(papers.ca_key, ca_key)
    write_certificate(papers.ca, ca)
    write_key(papers.server_key, server_key)
    write_certificate(
        papers.server,
        issue_server(ca, ca_key, server_key.public_key(), hosts, now, days=SERVER_DAYS),
    )
    write_signing_key(papers.operator_key, operator)
    write_signing_key(papers.log_key, log_key)
    write_durably(papers.consortium, description)
    with Registry.create(papers.registry) as registry:
        record = OperatorRecord(key_id(operator), FIRST_OPERATOR, public_key_hex(operator))
        registry.add_operator(record, now.timestamp())
    # The log begins with who keeps it.
    first = description_entry(read_consortium(description))
    first_log(papers, name, log_key).note(first)
    # server.toml comes last: a folder without it was not finished.
    write_durably(papers.config, _server_toml(ports or Ports()).encode("utf-8"))
    return fingerprint(ca)


def first_log(papers: Papers, name: str, key: Ed25519PrivateKey) -> Logbook:
    """The log of a consortium that is being founded, where its server.toml will say it is."""
    state = papers.folder / "state"
    log = Log(state / "log", state / "log.guard", log_origin(name), key)
    return Logbook(log, Cosigned(state / "cosigned"))


def describe_again(  # what, who is in it, by whom, when, and who is told
    papers: Papers,
    registry: Registry,
    name: str,
    signer: Ed25519PrivateKey,
    now: datetime,
    *,
    note: Note | None = None,
) -> None:
    """Write a new ``consortium.json`` after operators came or went, signed by ``signer``.

    It is issued at least a second after the one before, whatever the clock says, and both are kept,
    so that a site that was away can follow from one to the next. ``note`` writes it into the log
    first: what sites see is there.

    Raises:
        ConfigError: STR-101 the CA's key cannot be read; STR-108 the signer is not in office.
    """
    operators: dict[str, Ed25519PublicKey] = {
        operator.name: public_key_from_hex(operator.public_key) for operator in registry.operators()
    }
    if key_id(signer) not in {operator.key_id for operator in registry.operators()}:
        raise ConfigError(
            "The signing key is not that of an operator in office.",
            fix="Give a remaining operator's key with --key; it signs the new description.",
            code="STR-108",
        )
    ca, ca_key = load_certificate(papers.ca), load_key(papers.ca_key)
    before = read_consortium(papers.consortium.read_bytes())
    issued = max(now, before.issued_at + timedelta(seconds=1))
    log_key = load_signing_key(papers.log_key).public_key()
    raw = make_consortium(name, ca, ca_key, operators, signer, issued, log_key=log_key)
    if note is not None:
        note(description_entry(read_consortium(raw)))
    # Kept first: a crash between the two leaves sites a step ahead, on a description that the
    # operator signed; the command is then given again and makes the next.
    keep(papers.consortium, before)
    keep(papers.consortium, read_consortium(raw))
    write_durably(papers.consortium, raw)


def renew_server_certificate(
    authority: Authority, tls: TlsSection, hosts: Sequence[str], now: datetime
) -> None:
    """A new certificate for the server's present key; takes effect at the next start."""
    ca, ca_key, key = authority.certificate, authority.key, load_key(tls.private_key).public_key()
    write_certificate(tls.certificate, issue_server(ca, ca_key, key, hosts, now, days=SERVER_DAYS))


def _server_toml(ports: Ports) -> str:
    return f"""\
# server.toml: the one file an operator edits. Every key: docs/reference/server-config.md.
# Relative paths are relative to this file's folder.

state = "state"
edge_host = "0.0.0.0"
edge_port = {ports.edge}          # hospitals: mutual TLS 1.3
enrol_port = {ports.enrol}        # enrolment: TLS 1.3 and a one-time token; delete the line to close it
inner_port = {ports.inner}        # loopback only
registry = "registry.db"
consortium = "consortium.json"
log_key = "log.key"         # signs the consortium's log, state/log
# log_guard = "/another/disk/log.guard"   # what was promised of it; survives a restored backup there

[tls]
ca = "ca.pem"
ca_key = "ca.key"
certificate = "server.pem"
private_key = "server.key"
"""
