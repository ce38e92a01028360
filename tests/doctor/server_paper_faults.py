"""Faults of a server's papers: server.toml, keys, certificates, the consortium's description."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from place import HOST, Place, set_toml
from server_place import View, server_fault

from stillroom.common.pki.files import load_certificate, load_key, write_certificate, write_key
from stillroom.common.pki.issue import issue_server, make_ca, new_key
from stillroom.server.foundation import SERVER_DAYS

HOSTS = ("127.0.0.1", "localhost", HOST)


def certify(config: Path, *, days_ago: int = 0, hosts: Sequence[str] = HOSTS) -> None:
    """A certificate for the server's key by the consortium's CA."""
    folder = config.parent
    ca, ca_key = load_certificate(folder / "ca.pem"), load_key(folder / "ca.key")
    key = load_key(folder / "server.key").public_key()
    then = datetime.now(UTC) - timedelta(days=days_ago)
    made = issue_server(ca, ca_key, key, hosts, then, days=SERVER_DAYS)
    write_certificate(folder / "server.pem", made)


@server_fault("server.toml misspelt", "an unknown key", "server.toml", "STR-102", "1 problem")
def misspelt(place: Place, config: Path) -> Iterator[None]:
    """One letter."""
    set_toml(config, poll_seconds=1)
    yield


@server_fault("CA missing", "`ca.pem` removed", "server.toml", "STR-102", "tls.ca")
def no_ca(place: Place, config: Path) -> Iterator[None]:
    """Named in server.toml and not there."""
    (config.parent / "ca.pem").unlink()
    yield


@server_fault("CA file replaced", "a foreign `ca.pem`", "CA", "STR-203", "another key")
def foreign_ca(place: Place, config: Path) -> Iterator[None]:
    """Somebody else's."""
    ca, _ = make_ca("elsewhere", 30, datetime.now(UTC))
    write_certificate(config.parent / "ca.pem", ca)
    yield


@server_fault("key readable by others", "chmod 644", "private keys", "STR-202", "chmod 600")
def open_key(place: Place, config: Path) -> Iterator[None]:
    """A copy may be anywhere."""
    (config.parent / "server.key").chmod(0o644)
    yield


@server_fault("log key missing", "`log.key` removed", "private keys", "STR-101")
def no_log_key(place: Place, config: Path) -> Iterator[None]:
    """Nothing can be signed any more."""
    (config.parent / "log.key").unlink()
    yield


@server_fault(
    "certificate expired", "issued 400 days ago", "certificate", "STR-201", "expired on",
    "renew-certificate",
)  # fmt: skip
def expired(place: Place, config: Path) -> Iterator[None]:
    """Nobody renewed it."""
    certify(config, days_ago=400)
    yield


@server_fault(
    "certificate about to expire", "issued 392 days ago", "certificate", "STR-201", "ends in",
    "renew-certificate", outcome="warning",
)  # fmt: skip
def expiring(place: Place, config: Path) -> Iterator[None]:
    """In four days."""
    certify(config, days_ago=392)
    yield


@server_fault(
    "certificate not yet valid", "issued for tomorrow", "certificate", "STR-201", "not yet valid"
)
def early(place: Place, config: Path) -> Iterator[None]:
    """Or a clock that is behind, of a server that has written nothing yet."""
    certify(config, days_ago=-2)
    yield


@server_fault("key of another certificate", "a new `server.key`", "certificate", "STR-203")
def other_key(place: Place, config: Path) -> Iterator[None]:
    """The two do not belong together."""
    (config.parent / "server.key").unlink()
    write_key(config.parent / "server.key", new_key())
    yield


@server_fault(
    "another CA's certificate", "a foreign CA", "certificate", "STR-201", "not issued",
    "renew-certificate",
)  # fmt: skip
def foreign(place: Place, config: Path) -> Iterator[None]:
    """No site would take it."""
    ca, ca_key = make_ca("elsewhere", 30, datetime.now(UTC))
    key = load_key(config.parent / "server.key").public_key()
    made = issue_server(ca, ca_key, key, HOSTS, datetime.now(UTC))
    write_certificate(config.parent / "server.pem", made)
    yield


@server_fault(
    "certificate without a name to dial", "`localhost` alone, on all addresses", "server names",
    "STR-201", "renew-certificate",
)  # fmt: skip
def no_name(place: Place, config: Path) -> Iterator[None]:
    """As made on a machine that had no name yet."""
    certify(config, hosts=["localhost", "127.0.0.1"])
    set_toml(config, edge_host="0.0.0.0")  # noqa: S104  # of a network without a way out
    yield


@server_fault("consortium.json missing", "removed", "consortium", "STR-101")
def no_consortium(place: Place, config: Path) -> Iterator[None]:
    """Named in server.toml and not there."""
    (config.parent / "consortium.json").unlink()
    yield


@server_fault(
    "clock a day behind", "`faketime`, for the command", "clock", "STR-201", "behind", "set-ntp"
)
def behind(place: Place, config: Path) -> Iterator[View]:
    """The log's last entry is of tomorrow."""
    yield View(before=("faketime", "-f", "-1d"))


@server_fault(
    "clock kept by nobody", "what the kernel tells, replaced", "clock", "", "NTP", outcome="warning"
)
def unkept(place: Place, config: Path) -> Iterator[View]:
    """It may be right by chance."""
    yield View(prelude="machine.kernel_clock = lambda: machine.TIME_ERROR")
