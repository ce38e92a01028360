"""The server's doctor: a healthy server, and faults in what lies on its disk."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stillroom.common.canonical import canonical_bytes
from stillroom.common.checkup import Finding, examine, report
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.memory import MemorySeen
from stillroom.common.pki.files import (
    load_certificate,
    load_key,
    load_signing_key,
    write_certificate,
)
from stillroom.common.pki.issue import issue_server
from stillroom.common.signed_study import sign_study
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.common.tlog.note import Note, parse_note
from stillroom.deploy.consortium_files import Layout, found_consortium, logbook, write_server_config
from stillroom.deploy.processes import free_ports
from stillroom.server.cli import app
from stillroom.server.doctor.checks import CHECKS
from stillroom.server.doctor.consortium import certificates_finding, runs_finding, silent_finding
from stillroom.server.doctor.examination import Examination
from stillroom.server.doctor.machine import GIB, clock_finding, disk_finding, memory_finding
from stillroom.server.doctor.papers import names_finding
from stillroom.server.doctor.running import edge_finding
from stillroom.server.doctor.studies import quorum_finding
from stillroom.server.run_status import Standing
from stillroom.server.store.members import SiteRecord
from stillroom.server.store.runs import Runs


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


def checkpoint_damaged(server: Path) -> None:
    (server / "state" / "log" / "checkpoint").write_bytes(b"nothing\n")


def vouched_for_more(server: Path) -> None:
    """Log and guard were put back together; a site's word was not."""
    folder = server / "state" / "cosigned"
    folder.mkdir(exist_ok=True)
    note = parse_note((server / "state" / "log" / "checkpoint").read_bytes())
    origin, size, root = note.text.splitlines()
    more = Note(f"{origin}\n{int(size) + 3}\n{root}\n", note.signatures)
    (folder / "north").write_bytes(more.to_bytes())


def anybody_writes(server: Path) -> None:
    (server / "state").chmod(0o777)


def runs_damaged(server: Path) -> None:
    (server / "state" / "runs.db").write_bytes(b"nothing" * 1000)


def flower_lost(server: Path) -> None:
    """Without a registry its file is all that knows the sites."""
    path = server / "server.toml"
    path.write_text(path.read_text().replace('registry = "registry.db"\n', ""))
    (server / "state" / "flower.db").write_bytes(b"nothing" * 1000)


def names_this_machine_alone(server: Path) -> None:
    path = server / "server.toml"
    path.write_text(path.read_text().replace('edge_host = "127.0.0.1"', 'edge_host = "0.0.0.0"'))


def nobody_serves(server: Path) -> None:
    """`execute` runs, as far as its lock tells."""
    descriptor = os.open(server / "state" / "execute.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    HELD.append(descriptor)


def few_sites(server: Path) -> None:
    """A run of a study that needs three."""
    add_run(server, min_sites=3)


def study_changed(server: Path) -> None:
    study = add_run(server) / "study.json"
    study.write_text(study.read_text("utf-8").replace('"seed":0', '"seed":1'), "utf-8")


HELD: list[int] = []


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Locks that a fault took."""
    yield
    while HELD:
        os.close(HELD.pop())


def add_run(server: Path, min_sites: int = 1) -> Path:
    """A run is wanted, of a study that an operator signed and both sites have consented to."""
    folder = server.parent / "study"
    study = Study.parse(
        {
            "study": {"name": "matrix", "quorum": {"min_sites": min_sites}},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["aorta"]}},
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "student", "recipe": "distil", "rounds": 1}],
        }
    )
    initial = write_weights(folder / "weights", {"trunk.w": np.zeros((4, 4), np.float32)})
    spec = TensorSpec(name="trunk.w", shape=(4, 4), dtype="float32", group="trunk")
    stage = PreparedStage(initial_sha256=initial, manifest=Manifest(tensors=(spec,)))
    prepared = PreparedStudy(study=study, stages={"student": stage})
    (folder / "study.json").write_bytes(canonical_bytes(prepared.model_dump(mode="json")))
    sign_study(folder, load_signing_key(server / "operator.key"))
    with Runs(server / "state" / "runs.db") as runs:
        runs.add("first", folder, server.parent / "run", time.time())
    return folder


@pytest.mark.parametrize(
    ("harm", "check", "code"),
    [
        (expired, "certificate", "STR-201"),
        (open_key, "private keys", "STR-202"),
        (misspelt, "server.toml", "STR-102"),
        (registry_damaged, "registry", "STR-101"),
        (log_restored, "log", "STR-221"),
        (description_gone, "consortium", "STR-101"),
        (checkpoint_damaged, "log", "STR-221"),
        (vouched_for_more, "log", "STR-221"),
        (anybody_writes, "state folder", "STR-202"),
        (runs_damaged, "runs", "STR-101"),
        (flower_lost, "Flower's state", "STR-101"),
        (names_this_machine_alone, "server names", "STR-201"),
        (nobody_serves, "processes", "STR-502"),
        (few_sites, "quorum", "STR-306"),
        (study_changed, "studies", "STR-209"),
    ],
)
def test_faults(server: Path, harm: Callable[[Path], None], check: str, code: str) -> None:
    """Each is named by its check; no check crashes the command."""
    harm(server)
    found = failed(server)
    assert next(iter(found)) == check
    assert found[check] == code
    assert "STR-505" not in found.values()


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
    sites[2] = replace(sites[2], changed_at=-100_000.0)
    heard = {"north": -10.0, "river": -90_000.0}
    quiet = silent_finding(sites, heard, 0.0)
    assert "river, summit" in quiet.saw
    assert silent_finding(sites[:1], {}, 0.0).outcome == "ok", "enrolled just now"
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


def test_memory() -> None:
    """Whose limit it is decides what helps."""
    assert memory_finding(MemorySeen(4 * GIB, 4 * GIB), GIB).outcome == "ok"
    assert "more memory" in memory_finding(MemorySeen(GIB // 4, 0), GIB).do
    assert "limit" in memory_finding(MemorySeen(4 * GIB, 0, GIB // 4), GIB).do


@pytest.mark.parametrize(
    ("free", "serves", "shown", "outcome", "code"),
    [
        (True, False, "", "ok", ""),
        (False, True, "mine", "ok", ""),
        (False, False, "mine", "ok", ""),
        (False, True, "", "failed", "STR-520"),
        (True, True, "", "failed", "STR-520"),
        (False, True, "old", "warning", "STR-201"),
        (False, False, "old", "failed", "STR-501"),
        (False, False, "", "failed", "STR-501"),
    ],
)
def test_who_has_the_edge(free: bool, serves: bool, shown: str, outcome: str, code: str) -> None:
    """This server, this server with yesterday's certificate, a server that hangs, or another one."""
    found = edge_finding(free=free, serves=serves, shown=shown, mine="mine")
    assert (found.outcome, found.code) == (outcome, code)


ANY = "0.0.0.0"  # noqa: S104  # nobody listens there


def test_a_name_that_sites_dial() -> None:
    """And that the certificate does not have; another machine could not dial loopback."""
    known = ["fl.example.org", "192.0.2.7"]
    assert names_finding(known, ["fl.example.org"], ANY).outcome == "ok"
    assert "other.example.org" in names_finding(known, ["other.example.org"], ANY).saw
    assert names_finding(["localhost", "127.0.0.1"], [], "127.0.0.1").outcome == "ok"


@pytest.mark.parametrize(
    ("agreed", "here", "outcome", "words"),
    [
        ("abc", None, "ok", ""),
        ("abc", "ab", "ok", ""),
        ("abc", "c", "warning", "away: a, b"),
        ("a", None, "warning", "consented"),
    ],
)
def test_a_quorum(agreed: str, here: str | None, outcome: str, words: str) -> None:
    """Two are needed of three."""
    found = quorum_finding("r", 2, "abc", agreed, here)
    assert found.outcome == outcome
    assert words in found.saw


def test_a_clock_behind_the_log(server: Path) -> None:
    """An hour: no certificate is judged by such a clock."""
    found = failed(server, datetime.now(UTC) - timedelta(hours=1))
    assert next(iter(found)) == "clock"
    assert set(found) == {"clock"}
