"""One screen about a site: every condition has its words."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "doctor"))

from place import Place

from stillroom.client.cli import app
from stillroom.client.leaving import Left
from stillroom.client.ledger import NAME, Entry, Ledger
from stillroom.client.pausing import paused_since
from stillroom.client.pulse import Pulse, PulseTask
from stillroom.client.site_status import Sent, SiteStatus, in_words

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PULSE = Pulse(started_at=NOW, written_at=NOW, last_contact_at=NOW - timedelta(seconds=4))
IDLE = SiteStatus(
    site="north",
    pulse=PULSE,
    courier=True,
    runner=True,
    pause=None,
    left=None,
    study="hearts",
    consent="consent given",
    consent_days=90,
    certificate_days=25,
    sent=Sent(3, 3 << 20, 1, NOW - timedelta(hours=2)),
)


def said(status: SiteStatus) -> dict[str, str]:
    return dict(in_words(status, NOW))


def test_a_site_that_works() -> None:
    """Who lives, what is going on, what has left."""
    task = PulseTask(message="round", stage="student", round=4, since=NOW - timedelta(minutes=3))
    words = said(replace(IDLE, pulse=PULSE.model_copy(update={"task": task})))
    assert words["courier"] == "runs; server heard 4 s ago"
    assert words["now"] == "round 4 of student, begun 3 min ago"
    assert words["consent"] == "consent given, 90 more days"
    assert words["left here"] == "3 updates, 3.0 MiB, the last 2 h ago; 1 refused"


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"pulse": None, "courier": False}, "courier", "has never run here"),
        ({"courier": False}, "courier", "does not run; last seen 0 s ago"),
        ({"runner": False}, "runner", "does not run"),
        ({"study": None}, "study", "none that can be read"),
        ({"sent": Sent(broken=True)}, "left here", "ledger verify"),
        ({"left": Left(NOW, "told", 1, wiped=True)}, "membership", "left the consortium"),
        ({"left": Left(NOW, "not reached", 1)}, "membership", "run `leave` again"),
    ],
)
def test_what_is_wrong(change: dict[str, object], subject: str, words: str) -> None:
    """Each in its own line."""
    assert words in said(replace(IDLE, **change))[subject]  # type: ignore[arg-type]


def test_the_commands(tmp_path: Path) -> None:
    """Pause, see it, go on; the twin for the runner comes and goes with it."""
    place = Place(tmp_path / "consortium", port=9, host="127.0.0.1")
    place.found()
    site = place.pristine
    with Ledger(site / "courier" / NAME) as ledger:
        ledger.append(Entry(kind="sent", content="a" * 64, bytes=2048, decision="allowed"))

    def run(*command: str) -> str:
        done = CliRunner().invoke(app, [*command, "--config", str(site / "site.toml")])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "is paused since" in run("pause", "--why", "night shift [x]")
    assert paused_since(site / "exchange") is not None
    assert "night shift [x]" in run("status")
    assert "goes on" in run("resume")
    assert "was not paused" in run("resume")
    assert paused_since(site / "exchange") is None
    value = json.loads(run("status", "--json"))
    assert (value["site"], value["updates"], value["bytes"]) == ("north", 1, 2048)
    assert value["consent"] == "consent given"
    assert value["pulse"] is None
    assert run("logs") == ""
