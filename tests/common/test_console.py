"""What a person sees when something expected goes wrong, and what a script can rely on."""

import json
import logging
import subprocess
import sys

import pytest
import typer

from stillroom.common import errors
from stillroom.common.console import run_cli
from stillroom.common.logs import FIELDS, JsonLines

PROGRAM = """
import typer
from stillroom.common import errors
from stillroom.common.console import run_cli

app = typer.Typer(pretty_exceptions_enable=False)

@app.command()
def go(what: str) -> None:
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "bug":
        raise RuntimeError("a bug")
    raise getattr(errors, what)("The [bold]port[/] is \\\\taken.", fix="Use [other] one.")

run_cli(app)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("family", "code", "status"),
    [
        ("ConfigError", "STR-100", 2),
        ("TrustError", "STR-200", 3),
        ("ContractError", "STR-300", 4),
        ("DataError", "STR-400", 5),
        ("ResourceError", "STR-500", 6),
    ],
)
def test_expected_failure(family: str, code: str, status: int) -> None:
    """Two lines on standard error, the family's exit status, markup shown and not obeyed."""
    done = run(family)

    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error {code}: The [bold]port[/] is \\taken.",
        "fix: Use [other] one.",
    ]


def test_ctrl_c_is_130() -> None:
    """As every shell expects, and without a traceback."""
    done = run("interrupt")

    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_bugs_crash() -> None:
    """A programming mistake is not dressed up as a failure that a person could fix."""
    done = run("bug")

    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr


def test_wrong_command_line_is_2() -> None:
    """Typer's own refusals keep their status."""
    assert run().returncode == 2


def test_success_returns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that works ends with 0."""
    app = typer.Typer()
    app.command()(lambda: typer.echo("done"))
    monkeypatch.setattr(sys, "argv", ["program"])

    with pytest.raises(SystemExit) as caught:
        run_cli(app)

    assert caught.value.code == 0
    assert capsys.readouterr().out == "done\n"


def test_codes_belong_to_their_families() -> None:
    """Every default is registered, in its own hundred; every code has one sentence."""
    for number, family in enumerate(
        (
            errors.ConfigError,
            errors.TrustError,
            errors.ContractError,
            errors.DataError,
            errors.ResourceError,
        ),
        1,
    ):
        assert family.default_code == f"STR-{number}00"
        assert family.exit_status == number + 1
    assert all(text.endswith(".") for text in errors.CODES.values())
    with pytest.raises(ValueError, match="STR-999"):
        errors.DataError("x", fix="y", code="STR-999")


def test_log_lines_hold_only_allowed_fields() -> None:
    """One JSON object; what is not on the list is dropped, whoever attached it."""
    record = logging.LogRecord(
        "stillroom.x", logging.WARNING, __file__, 1, "round.closed", (), None
    )
    record.__dict__.update(stage="teach", round=3, patient="DOE^JANE", path="/data/x", site=None)

    line = json.loads(JsonLines().format(record))

    assert line["event"] == "round.closed"
    assert line["level"] == "warning"
    assert {"stage", "round"} <= line.keys() <= FIELDS | {"time", "level", "logger", "event"}
    assert "DOE" not in json.dumps(line)


def test_log_line_with_a_traceback_is_one_line() -> None:
    """A log is read line by line; a traceback stays inside its object."""
    try:
        raise RuntimeError("broken\npipe")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())

    text = JsonLines().format(record)

    assert "\n" not in text
    assert "RuntimeError" in json.loads(text)["traceback"]
