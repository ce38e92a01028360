"""``stillroom-server run`` from another terminal, with nothing else running."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stillroom.common.errors import CODES, ConfigError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.server.app import Wish
from stillroom.server.cli import app
from stillroom.server.endings import Ended, Paused
from stillroom.server.store.folder import claimed
from stillroom.server.store.journal import Journal
from stillroom.server.store.runs import ENDED, RUNNING, STOPPED, Runs

Command = Callable[..., str]


def prepare(folder: Path) -> PreparedStudy:
    spec = TensorSpec(name="w", shape=(2,), dtype="float32", group="g")
    digest = write_weights(folder / "weights", {"w": np.ones(2, np.float32)})
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    study = Study.parse(
        {
            "study": {"name": "terminal"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "student", "recipe": "distil", "rounds": 3}],
        }
    )
    prepared = PreparedStudy(study=study, stages={"student": stage})
    (folder / "study.json").write_text(prepared.model_dump_json())
    return prepared


@pytest.fixture
def config(
    tmp_path: Path, write_server_toml: Callable[..., Path], free_ports: Callable[[], Any]
) -> Path:
    """A server that is not running, and a prepared study beside it."""
    prepare(tmp_path / "study")
    return write_server_toml(tmp_path, free_ports())


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command of the group; what it prints."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(what: str, *arguments: object) -> str:
        with_config = [] if what == "watch" else ["--config", str(config)]
        done = CliRunner().invoke(app, ["run", what, *with_config, *map(str, arguments)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return command


def table(config: Path) -> Runs:
    return Runs(config.parent / "state" / "runs.db")


def begin(config: Path, run: Command) -> Journal:
    """A run that was started and got as far as its second round."""
    folder = config.parent / "out"
    run("start", config.parent / "study", "--out", folder)
    journal = Journal(folder)
    journal.event("study.started", study="d" * 64)
    journal.event(
        "round.closed", stage="student", round=1, of=3, admitted=["a"], loss=None, seconds=1
    )
    journal.event("round.opened", stage="student", round=2, of=3, invited=["a", "b"], left_out={})
    journal.event(
        "site.answered", stage="student", round=2, site="a", status="admitted", reason="", loss=None
    )
    return journal


def test_start_says_what_is_wanted(config: Path, run: Command) -> None:
    """The server begins when it sees it, or when it is started."""
    said = run("start", config.parent / "study", "--out", config.parent / "out", "--name", "first")

    assert "run 1, first" in said
    with table(config) as runs:
        assert runs.get("first").wanted == RUNNING
        assert runs.get("first").folder == config.parent / "out"
    with pytest.raises(ConfigError) as caught:
        run("start", config.parent / "study", "--out", config.parent / "other", "--name", "first")
    assert caught.value.code == "STR-108"


def test_status_and_list(config: Path, run: Command) -> None:
    """Stage, round, who has answered, who is awaited: from the folder alone."""
    begin(config, run)
    said = run("status")

    for words in ("terminal", "starting", "student, round 2 of 3", "awaited", "b, for"):
        assert words in said
    with claimed(config.parent / "out"):
        assert "running" in run("list")
    assert "out" in run("list")


def test_no_run_yet(run: Command) -> None:
    """Said, no error."""
    assert "no run yet" in run("status")


def test_pause_and_resume(config: Path, run: Command) -> None:
    """Both are remembered, and the study's own process sees them."""
    begin(config, run)
    wish = Wish(str(config.parent / "state" / "runs.db"), "out")
    wish()

    assert "paused" in run("stop", "out")
    said = run("status", "1")
    assert "paused" in said
    # Nobody is waited for: the round is asked again when the run goes on.
    assert "awaited" not in said
    with wish, pytest.raises(Paused):
        Wish(str(config.parent / "state" / "runs.db"), "out")()
    run("resume", "out")
    with table(config) as runs:
        assert runs.get("out").wanted == RUNNING


def test_end_for_good(config: Path, run: Command) -> None:
    """A result with STR-508 at once, without a server; nothing makes it go on."""
    begin(config, run)
    assert "has ended" in run("stop", "1", "--end")
    result = json.loads((config.parent / "out" / "result.json").read_text())

    assert (result["status"], result["error"]["code"]) == ("failed", "STR-508")
    with table(config) as runs:
        assert runs.get("out").wanted == ENDED
    with Wish(str(config.parent / "state" / "runs.db"), "out") as wish, pytest.raises(Ended):
        wish()
    for command in ("resume", "stop"):
        with pytest.raises(ConfigError):
            run(command, "out")
    assert "failed: STR-508" in run("status")
    with pytest.raises(StillroomError) as caught:
        run("watch", config.parent / "out")
    assert (caught.value.code, caught.value.exit_status) == ("STR-508", 6)


def test_a_running_process_is_left_to_end_itself(
    config: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the folder's lock ends the run; two processes never write there."""
    monkeypatch.setattr("stillroom.server.run_cli.END_S", 0.3)
    begin(config, run)
    with claimed(config.parent / "out"):
        assert "will stop" in run("stop", "out", "--end")
        assert not (config.parent / "out" / "result.json").exists()


def test_watching_a_run_whose_last_word_was_lost(config: Path, run: Command) -> None:
    """Killed between its result and the event: the watcher ends all the same."""
    journal = begin(config, run)
    journal.write("result.json", {"status": "completed", "error": None})

    assert "round 1 of 3" in run("watch", config.parent / "out")


def test_a_wish_of_nobody() -> None:
    """A study without a table goes on."""
    with Wish("", "") as wish:
        wish()
        wish.give_up("x")


def test_giving_up_is_told(config: Path, run: Command) -> None:
    """Why a run does not go on can be read, with its code."""
    begin(config, run)
    with Wish(str(config.parent / "state" / "runs.db"), "out") as wish:
        wish.give_up(f"STR-503: {CODES['STR-503']}")
    with table(config) as runs:
        assert runs.get("out").wanted == STOPPED
    assert "paused: STR-503" in run("status")


def test_times_are_shown_as_people_say_them() -> None:
    """Seconds, minutes, hours, days."""
    from stillroom.server.run_status import ago

    now = time.time()
    assert [ago(now - s) for s in (5, 125, 7300, 180000)] == ["5 s", "2 min", "2 h", "2 d"]
    assert ago(None) == ""
