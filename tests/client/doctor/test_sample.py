"""A quick sample of the doctor matrix, and a report in which nothing of this site is found."""

import json
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "doctor"))

import house_faults  # noqa: F401  # fills the table
import network_faults  # noqa: F401  # likewise
import paper_faults  # noqa: F401  # likewise
from faults import FAULTS
from matrix import judge
from place import Place, environment, set_toml

from stillroom.client.cli import app
from stillroom.client.doctor.checks import CHECKS, checks_of
from stillroom.client.doctor.examination import Examination
from stillroom.client.pausing import pause
from stillroom.common.checkup import examine, report

SAMPLE = (
    "proxy down",
    "proxy of another kind",
    "certificate expired",
    "certificate not yet valid",
    "wrong SAN",
    "other site's key",
    "another CA's certificate",
    "CA file replaced",
    "key readable by others",
    "runner secret missing",
    "site.toml misspelt",
    "no GPU where one is asked for",
    "GPU not passed in",
    "memory limit",
    "data folder empty",
    "data folder missing",
    "no scan among the files",
    "too few cases",
    "too few of a label",
    "no study",
    "study changed",
    "study not signed",
    "no consent",
    "consent withdrawn",
    "ledger changed",
    "stopped over the log",
    "paused",
    "consortium.json missing",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fault_is_named(place: Place, name: str) -> None:
    """By the right check, with its code, and no other check fails without reason."""
    (fault,) = [fault for fault in FAULTS if fault.name == name]
    with place.hospital() as config, fault.inject(place, config) as exam:
        results = examine(CHECKS, exam)
    # The server is away in this sample: the matrix itself has one.
    named, _, wrong = judge(replace(fault, also=(*fault.also, "route")), results)
    assert named, wrong


def test_there_are_twenty_checks_and_more() -> None:
    """With names of their own; each part of the site has its share."""
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names)) >= 20
    known = set[str]()
    for check in CHECKS:
        assert set(check.needs) | set(check.unless) <= known, (
            "a ground comes before what rests on it"
        )
        known.add(check.name)
    assert len(checks_of("courier")) + len(checks_of("runner")) > len(CHECKS)


def test_the_report_names_nothing_of_this_site(place: Place, tmp_path: Path) -> None:
    """Canaries in every field that somebody fills in, and in what the doctor sees on the way."""
    with place.hospital() as config:
        home = config.parent
        (home / "data").rename(home / "canary-data")
        (home / "state").rename(home / "canary-state")
        set_toml(
            config,
            server="canary-host.invalid:4443",
            data=[str(home / "canary-data"), str(home / "canary-more")],
            state="canary-state",
            exchange="canary-exchange",
            courier_state="canary-courier",
            study=str(home / "canary-study"),
            runner_secret="canary.secret",
            signing_key="canary-signing.key",
            consortium="canary-consortium.json",
            tls={"ca": "canary-ca.pem", "certificate": "canary.pem", "private_key": "canary.key"},
        )
        pause(home / "canary-courier", "canary reason")
        texts = [report(examine(CHECKS, Examination(config)), title="doctor")]
    proxies = ("", "socks5://canary-proxy:1", "http://canary:canary@canary-proxy.invalid:1")
    for proxy in proxies:
        with place.hospital() as config, environment(HTTPS_PROXY=proxy):
            (config.parent / "site.key").chmod(0o644)
            (config.parent / "data" / "slice-0.dcm").write_text("canary")
            pause(config.parent / "courier", "canary reason")
            texts.append(report(examine(CHECKS, Examination(config)), title="doctor"))
    for text in texts:
        assert "STR-" in text
        for secret in ("canary", str(place.out), "north", "127.0.0.1", socket.gethostname()):
            assert secret not in text
        assert not re.search(r"\d+\.\d+\.\d+\.\d+", text)


def test_the_command(place: Place, tmp_path: Path) -> None:
    """A table, JSON, a report, and the exit status of the worst."""
    with place.hospital() as config:
        command = ["doctor", "--config", str(config)]
        shown = CliRunner().invoke(app, command)
        told = CliRunner().invoke(
            app, [*command, "--json", "--part", "runner", "--report", str(tmp_path / "report.txt")]
        )
    assert shown.exit_code == 2
    assert "Begin with route." in shown.stdout
    assert "allow outbound TCP" in shown.stdout
    value = json.loads(told.stdout)
    assert value["exit_status"] == told.exit_code
    assert {"GPU", "memory"} <= {check["name"] for check in value["checks"]}
    assert "route" not in {check["name"] for check in value["checks"]}
    assert "Nothing in here names" in (tmp_path / "report.txt").read_text("utf-8")
