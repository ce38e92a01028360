"""A hospital leaves in the middle of a study; the study goes on with the others and says so."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, withdraw_consent
from stillroom.common.pki.files import load_signing_key
from stillroom.common.study import PreparedStudy
from stillroom.server.store.journal import read_events

TINY = Path(__file__).with_name("tiny.toml")
LEAVES = "harbour"
TIMEOUT_S = 400


def events(out: Path) -> list[dict[str, Any]]:
    """What the run has told so far."""
    return [event for _, event in read_events(out / "run")]


def leave(out: Path, site: str) -> None:
    """What ``stillroom-client consent withdraw --yes`` does."""
    config = SiteConfig.load(out / "sites" / site / "site.toml")
    key = load_signing_key(config.signing_key)
    digest = PreparedStudy.load(config.study).digest
    withdraw_consent(ConsentBook.below(config.exchange), key, study=digest, site=site)


def test_a_site_leaves_in_the_middle(tmp_path: Path) -> None:
    """Its last answer is a code, nothing of it is used afterwards, the student is finished."""
    out = tmp_path / "out"
    sizes = ["--labelled", "2", "--unlabelled", "1", "--held-out", "1"]
    command = [sys.executable, "-P", "-m", "stillroom.deploy.cli", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--study", str(TINY), *sizes, "--in-process"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        until = time.monotonic() + TIMEOUT_S
        while not any(
            e["event"] == "stage.opened" and e["stage"] == "student" for e in events(out)
        ):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        leave(out, LEAVES)
        assert process.wait(TIMEOUT_S) == 7  # a result from a subset
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    student = next(stage for stage in summary["stages"] if stage["name"] == "student")
    last = student["rounds"][-1]
    # It is asked once more at most: its withdrawal is told with that answer.
    asked = [record["sites"][LEAVES] for record in student["rounds"] if LEAVES in record["sites"]]

    assert summary["status"] == "completed"
    assert not summary["complete_participation"]
    assert last["order"] == ["north", "river"]
    refused = asked[-1]
    assert refused["status"] == "failed"
    assert refused["reason"].startswith("STR-208")
    assert refused["bytes_up"] == 0
    assert any(LEAVES in note and "STR-208" in note for note in summary["notes"])
    assert set(summary["consents"]) == {"harbour", "north", "river", "summit"}
