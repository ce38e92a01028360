"""One real federation: seven processes and a server on loopback, mutual TLS, nothing left behind."""

import ast
import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stillroom.server.audit.checks import verify
from stillroom.server.audit.reading import Given, open_case

WITNESS = Path(__file__).with_name("witness")
TRAINING = ("harbour", "north", "river")
HELD_OUT = "summit"


@dataclass(frozen=True)
class Rehearsal:
    """What a finished rehearsal left."""

    out: Path
    summary: dict[str, Any]
    connections: list[tuple[str, Any, str]]
    """Event, address, command line of the process."""


@pytest.fixture(scope="module")
def rehearsal(
    tmp_path_factory: pytest.TempPathFactory, rehearse_command: Callable[..., list[str]]
) -> Rehearsal:
    """The tiny study with real processes, each watched from inside by an audit hook."""
    folder = tmp_path_factory.mktemp("real")
    witness = folder / "connections"
    witness.touch(mode=0o600)
    done = subprocess.run(
        rehearse_command(folder / "out"),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(WITNESS),
            "STILLROOM_WITNESS": str(witness),
        },
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in witness.read_text().splitlines()]
    return Rehearsal(
        folder / "out",
        json.loads((folder / "out" / "summary.json").read_text()),
        [(event, ast.literal_eval(place), command) for event, place, command in lines],
    )


def test_who_took_part(rehearsal: Rehearsal) -> None:
    """Three training sites and one held out, by certificate, over TLS 1.3."""
    summary = rehearsal.summary
    roles = {site["name"]: site["role"] for site in summary["sites"]}

    assert roles == {**dict.fromkeys(TRAINING, "train"), HELD_OUT: "held_out"}
    assert summary["tls_version"] == "TLSv1.3"
    assert {site["tls_version"] for site in summary["sites"]} == {"TLSv1.3"}
    assert len({site["certificate_sha256"] for site in summary["sites"]}) == 4
    assert all(len(site["certificate_sha256"]) == 64 for site in summary["sites"])
    assert (summary["status"], summary["complete_participation"]) == ("completed", True)
    assert (summary["notes"], summary["refused_connections"]) == ([], {})


def test_every_round_is_recorded(rehearsal: Rehearsal) -> None:
    """Sites, samples, bytes and seconds of every round; the held-out site trains in none."""
    stages = {stage["name"]: stage["rounds"] for stage in rehearsal.summary["stages"]}

    assert {name: len(rounds) for name, rounds in stages.items()} == {
        "teach-chambers": 2,
        "teach-vessels": 1,
        "teach-landmarks": 1,
        "label": 1,
        "student": 2,
    }
    for name, rounds in stages.items():
        for record in rounds:
            assert HELD_OUT not in record["sites"]
            assert record["seconds"] > 0
            assert record["bytes_down"] > 0
            if name == "label":
                assert record["bytes_up"] == 0  # counts only: no tensor leaves
            else:
                assert record["bytes_up"] > 0
                assert all(count > 0 for count in record["samples"].values())
    assert list(stages["student"][0]["sites"]) == list(TRAINING)
    assert list(stages["teach-vessels"][0]["sites"]) == ["river"]


def test_what_it_leaves(rehearsal: Rehearsal) -> None:
    """A report, a release, the student by its digest, and scores of the held-out cases."""
    student = rehearsal.summary["student"]["sha256"]

    assert (rehearsal.out / "run" / "weights" / f"{student}.safetensors").is_file()
    assert (rehearsal.out / "report.html").stat().st_size > 10_000
    assert any((rehearsal.out / "release").rglob("*.safetensors"))
    assert {"chambers", "vessels", "landmarks"} <= rehearsal.summary["metrics"]["pooled"].keys()


def test_no_process_is_left(
    rehearsal: Rehearsal, processes_of: Callable[[Path], dict[int, str]]
) -> None:
    """Not a courier, not a ServerApp, not a helper of either."""
    assert processes_of(rehearsal.out) == {}


def test_nothing_is_reached_but_loopback(rehearsal: Rehearsal) -> None:
    """No telemetry, no update check, no name looked up: every address of every process is ours."""
    commands = {command for _, _, command in rehearsal.connections}

    assert sum("stillroom.client.cli courier" in command for command in commands) == 4
    assert sum("stillroom.client.cli runner" in command for command in commands) == 4
    assert any("flwr-serverapp" in command for command in commands)
    for event, place, command in rehearsal.connections:
        if isinstance(place, tuple):
            assert place[0] in {"127.0.0.1", "localhost", "", None}, (event, place, command)


def ports(rehearsal: Rehearsal, what: str, site: str) -> set[int]:
    """Ports that one process of a site connected to."""
    return {
        place[1]
        for event, place, command in rehearsal.connections
        if event == "socket.connect"
        and isinstance(place, tuple)
        and f"stillroom.client.cli {what}" in command
        and f"/sites/{site}/" in command
    }


@pytest.mark.parametrize("site", [*TRAINING, HELD_OUT])
def test_a_site_reaches_the_edge_and_nothing_else(rehearsal: Rehearsal, site: str) -> None:
    """The courier dials the edge; the runner dials nobody: its courier is a file to it."""
    server = tomllib.loads((rehearsal.out / "server" / "server.toml").read_text())

    assert ports(rehearsal, "courier", site) == {server["edge_port"]}
    assert ports(rehearsal, "runner", site) == set()


def test_no_patient_in_the_records(rehearsal: Rehearsal) -> None:
    """Nothing the server keeps names a scan or a case of a site."""
    cases = {path.parent.name for path in rehearsal.out.glob("sites/*/state/**/case.json")}
    kept = "".join(
        path.read_text("utf-8", "replace") for path in (rehearsal.out / "run").rglob("*.json*")
    )

    assert len(cases) > 10
    assert not [case for case in cases if case in kept]
    assert str(rehearsal.out / "scans") not in kept


def test_the_log_holds(rehearsal: Rehearsal) -> None:
    """Log, release, every site's ledger, key and kept checkpoint agree; every step has its entry."""
    sites = rehearsal.out / "sites"
    given = Given(
        rehearsal.out / "server" / "state" / "log",
        sites / "north" / "consortium.json",
        release=rehearsal.out / "release",
        ledgers=[f"{s}={sites / s / 'courier' / 'ledger.jsonl'}" for s in (*TRAINING, HELD_OUT)],
        seen=[sites / site / "courier" / "witness" / "checkpoint" for site in TRAINING],
        keys=[f"{s}={(sites / s / 'signing.pub').read_text().strip()}" for s in TRAINING],
    )
    case = open_case(given)

    assert [finding for finding in verify(case) if finding.result != "ok"] == []
    kinds = {json.loads(entry.to_bytes())["kind"] for _, entry in case.contents.numbered()}
    # An operator's own acts and refused strangers are not part of a rehearsal: test_logbook.py.
    assert kinds == {
        *("consortium", "member", "consent", "study", "stage", "round", "update", "commit"),
        *("score", "witness", "finish", "release"),
    }


def test_without_ports_the_same_student(rehearsal: Rehearsal, in_process: Path) -> None:
    """The transport changes nothing: the same seed gives the same student, bit for bit."""
    alone = json.loads((in_process / "summary.json").read_text())

    assert alone["in_process"] is True
    assert alone["study_digest"] == rehearsal.summary["study_digest"]
    assert alone["models"] == rehearsal.summary["models"]
    assert alone["metrics"] == rehearsal.summary["metrics"]
