"""The server's doctor: a healthy server, and faults in what lies on its disk."""

import json
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillroom.common.checkup import Finding, examine, report
from stillroom.common.pki.files import load_certificate, load_key, write_certificate
from stillroom.common.pki.issue import issue_server
from stillroom.deploy.consortium_files import Layout, found_consortium, logbook, write_server_config
from stillroom.deploy.processes import free_ports
from stillroom.server.cli import app
from stillroom.server.doctor.checks import CHECKS
from stillroom.server.doctor.consortium import certificates_finding, runs_finding, silent_finding
from stillroom.server.doctor.examination import Examination
from stillroom.server.doctor.machine import GIB, clock_finding, disk_finding
from stillroom.server.run_status import Standing
from stillroom.server.store.members import SiteRecord


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consortium of two, whose server has never run."""
    layout = Layout(tmp_path_factory.mktemp("canary"))
    found_consortium(layout, ["north", "river"])
    inner, edge = free_ports(2)
    write_server_config(layout, edge_port=edge, inner_port=inner)
    return layout.server


@pytest.fixture
def server(founded: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    shutil.copytree(founded, tmp_path / "server")
    return tmp_path / "server"


def look(server: Path, now: datetime | None = None) -> dict[str, Finding]:
    exam = Examination(server / "server.toml", clock=lambda: now or datetime.now(UTC))
    return {r.name: r.finding for r in examine(CHECKS, exam)}


def failed(server: Path, now: datetime | None = None) -> dict[str, str]:
    return {n: f.code for n, f in look(server, now).items() if f.outcome == "failed"}


def test_a_healthy_server(server: Path) -> None:
    """Nothing fails, and nothing is changed by looking."""

    def files() -> list[str]:
        """Without those that SQLite makes for every reader."""
        return sorted(str(p) for p in server.rglob("*") if not p.name.endswith(("-shm", "-wal")))

    before = files()
    assert failed(server) == {}
    assert files() == before


def expired(server: Path) -> None:
    ca, ca_key = load_certificate(server / "ca.pem"), load_key(server / "ca.key")
    key = load_key(server / "server.key").public_key()
    then = datetime.now(UTC) - timedelta(days=200)
    write_certificate(server / "server.pem", issue_server(ca, ca_key, key, ["localhost"], then))


def open_key(server: Path) -> None:
    (server / "server.key").chmod(0o644)


def misspelt(server: Path) -> None:
    path = server / "server.toml"
    path.write_text(path.read_text().replace("poll_s", "poll_seconds"))


def registry_damaged(server: Path) -> None:
    data = bytearray((server / "registry.db").read_bytes())
    data[4096:8192] = b"\xff" * 4096
    (server / "registry.db").write_bytes(bytes(data))


def log_restored(server: Path) -> None:
    """Yesterday's log with today's guard."""
    layout = Layout(server.parent)
    shutil.copytree(server / "state" / "log", server.parent / "yesterday")
    from stillroom.common.log_entries import UNSTAMPED, Operator

    logbook(layout).note(Operator(time=UNSTAMPED, act="site renew", subject="north"))
    guard = (server / "state" / "log.guard").read_bytes()
    assert guard
    shutil.rmtree(server / "state" / "log")
    shutil.copytree(server.parent / "yesterday", server / "state" / "log")


def description_gone(server: Path) -> None:
    (server / "consortium.json").unlink()


@pytest.mark.parametrize(
    ("harm", "check", "code"),
    [
        (expired, "certificate", "STR-201"),
        (open_key, "private keys", "STR-202"),
        (misspelt, "server.toml", "STR-102"),
        (registry_damaged, "registry", ""),
        (log_restored, "log", "STR-221"),
        (description_gone, "consortium", "STR-101"),
    ],
)
def test_faults(server: Path, harm: Callable[[Path], None], check: str, code: str) -> None:
    """Each is named by its check; no check crashes the command."""
    harm(server)
    found = failed(server)
    assert check in found
    assert code in ("", found[check])
    assert "STR-505" not in found.values() or check == "registry"


def test_a_port_that_another_has(server: Path) -> None:
    """Something listens there, and it is not this server."""
    config = Examination(server / "server.toml").config
    with socket.create_server(("127.0.0.1", config.edge_port)):
        found = look(server)
    assert (found["edge port"].outcome, found["edge port"].code) == ("failed", "STR-501")


def test_the_report_names_nobody(founded: Path) -> None:
    """No site, no host, no path."""
    text = report(examine(CHECKS, Examination(founded / "server.toml")), title="doctor")
    for secret in ("canary", "north", "river", "127.0.0.1", str(founded)):
        assert secret not in text


def test_the_command(founded: Path) -> None:
    """JSON and an exit status."""
    done = CliRunner().invoke(app, ["doctor", "--config", str(founded / "server.toml"), "--json"])
    value = json.loads(done.stdout)
    assert done.exit_code == value["exit_status"] in {0, 1}
    assert len(value["checks"]) == len(CHECKS) >= 15


def record(name: str, days: float | None = 20) -> SiteRecord:
    end = None if days is None else days * 86400
    return SiteRecord(name, "enrolled", None, None, None, None, None, None, None, end, 0, 0.0)


def test_sites() -> None:
    """Silent for a day, expired, about to expire; names on the screen, numbers in the report."""
    sites = [record("north", 20), record("river", 3), record("summit", -1)]
    traffic = {"north": {"last_seen": -10.0}, "river": {"last_seen": -90_000.0}}
    quiet = silent_finding(sites, traffic, 0.0)
    assert "river, summit" in quiet.saw
    assert quiet.told == "2 of 3 silent"
    ends = certificates_finding(sites, 0.0)
    assert "expired: summit" in ends.saw
    assert "river" not in ends.told
    assert certificates_finding(sites[:1], 0.0).outcome == "ok"


@pytest.mark.parametrize(
    ("state", "outcome", "words"),
    [
        ("running", "ok", "1 running"),
        ("paused", "warning", "too few sites"),
        ("starting", "warning", "execute"),
        ("completed", "ok", "1 completed"),
    ],
)
def test_runs(state: str, outcome: str, words: str) -> None:
    """What is wanted and does not go on."""
    standing = Standing(state, "s", "", "", None, (), (), None, "too few sites")
    found = runs_finding([("run-1", standing)])
    assert found.outcome == outcome
    assert words.lower() in f"{found.saw} {found.do}".lower()


def test_machine() -> None:
    """Disk and clock."""
    assert disk_finding(GIB // 4).outcome == "failed"
    assert disk_finding(2 * GIB).outcome == "warning"
    assert disk_finding(50 * GIB).outcome == "ok"
    assert clock_finding(5).outcome == "warning"
    assert clock_finding(0).outcome == "ok"
    assert clock_finding(None).outcome == "skipped"
