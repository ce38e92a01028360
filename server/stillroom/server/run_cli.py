"""``stillroom-server run``: studies started, watched, paused, resumed, ended. Thin: parse, call, print.

These commands say what is wanted and read what is recorded; the server's ``keeper`` and the study's
own process do the rest. So they work from any terminal of this machine, and while the server is down.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from stillroom.common.console import command_group
from stillroom.common.errors import ConfigError, StillroomError
from stillroom.server.config import ServerConfig
from stillroom.server.store.runs import ENDED, RUNNING, STOPPED, Run, Runs

run = command_group("Launch, watch, pause and resume studies.")
console = Console(highlight=False)

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
]
RunName = Annotated[str, typer.Argument(help="A run's name or number; see `run list`.")]

SUBSET = 7
"""Exit status of a study that was completed, but not by everybody who was expected."""
END_S = 15.0
"""How long `run stop` waits for the study's process to see it."""


@run.command()
def start(
    config: Config,
    prepared: Annotated[Path, typer.Argument(help="A prepared study.")],
    out: Annotated[Path, typer.Option(help="Folder for records and weights of this run.")],
    name: Annotated[
        str | None, typer.Option(help="Of this run; the folder's when left out.")
    ] = None,
) -> None:
    """Start a prepared study with every registered site; the server keeps it alive."""
    from stillroom.common.signed_study import SignedStudy
    from stillroom.common.study import PreparedStudy
    from stillroom.server.enrolment import load_consortium
    from stillroom.server.logbook import note_act

    require_empty(out)
    settings = ServerConfig.load(config)
    if settings.consortium is None:
        digest = PreparedStudy.load(prepared).digest
    else:
        # Sites would refuse it one by one; told here, it costs nobody a round.
        known = load_consortium(settings).operator_keys
        digest = SignedStudy.load(prepared, known).prepared.digest
    note_act(settings, "run start", name or out.resolve().name)
    with Runs(settings.runs) as runs:
        made = runs.add(name or out.resolve().name, prepared, out, time.time())
    console.print(f"run {made.number}, {made.name}, of study {digest[:16]}; watch it with")
    console.print(f"  stillroom-server run watch {out}")
    console.print("The server begins within a second, or when it is started.")


@run.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="The run's folder.")],
    follow: Annotated[bool, typer.Option(help="Stay until the run ends.")] = True,
) -> None:
    """Show what a run does, as it happens; exits with the status the run ends with.

    7 means that it was completed, and that not everybody who was expected took part in everything.
    """
    from stillroom.server.store.folder import result_of
    from stillroom.server.store.journal import describe, read_events

    offset, ended = 0, None
    while ended is None:
        # Looked up before the events: a result without its event is one whose writer was killed.
        result = result_of(folder)
        for behind, event in read_events(folder, offset=offset):
            offset = behind
            if text := describe(event):
                console.print(text)
            if event["event"] == "study.finished":
                ended = event
        if not follow:
            return
        ended = ended or result
        if ended is None:
            time.sleep(0.5)
    if ended["error"]:
        raise recorded_error(ended["error"])
    if not (result_of(folder) or {}).get("complete_participation", True):
        console.print("completed without everybody: a result from a subset; see its notes")
        raise typer.Exit(SUBSET)


@run.command("list")
def list_runs(config: Config) -> None:
    """Every run of this server, oldest first."""
    from stillroom.server.run_status import ago, standing

    table = Table("number", "run", "study", "state", "stage and round", "last event", "ago")
    with Runs(ServerConfig.load(config).runs) as runs:
        for one in runs.all():
            now = standing(one)
            table.add_row(
                str(one.number),
                one.name,
                now.study,
                now.state,
                now.stages,
                now.last,
                ago(now.last_at),
            )
    console.print(table)


@run.command()
def status(
    config: Config, name: Annotated[str | None, typer.Argument(help="A run.")] = None
) -> None:
    """Where a run is: who has answered, who is awaited and since when. Without a name, the newest."""
    from stillroom.server.run_status import ago, standing

    with Runs(ServerConfig.load(config).runs) as runs:
        found = runs.all()
        one = runs.get(name) if name is not None else (found[-1] if found else None)
    if one is None:
        console.print("no run yet")
        return
    now = standing(one)
    table = Table(show_header=False, box=None)
    for what, text in (
        ("run", f"{one.name} (number {one.number})"),
        ("study", now.study),
        ("state", f"{now.state}{': ' + now.reason if now.reason else ''}"),
        ("at", now.stages),
        ("last event", f"{now.last}, {ago(now.last_at)} ago" if now.last else ""),
        ("answered", ", ".join(now.answered)),
        ("awaited", _awaited(now.awaited, ago(now.since))),
        ("folder", str(one.folder)),
    ):
        if text:
            table.add_row(what, text)
    console.print(table)


@run.command()
def stop(
    config: Config,
    name: RunName,
    end: Annotated[bool, typer.Option("--end", help="For good: it cannot be resumed.")] = False,
) -> None:
    """Pause a run where it is, or end it for good. Nothing that was committed is lost."""
    from stillroom.server.depot import Depot
    from stillroom.server.logbook import note_act, open_logbook
    from stillroom.server.run_status import end_idle
    from stillroom.server.store.folder import RESULT, is_free

    settings = ServerConfig.load(config)
    with Runs(settings.runs) as runs:
        one = runs.get(name)
        _require_open(one)
        note_act(settings, "run stop --end" if end else "run stop", one.name)
        runs.want(one.name, ENDED if end else STOPPED, time.time())
    book = open_logbook(settings)
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        depot = Depot(settings.depot)
        if end and ((one.folder / RESULT).exists() or end_idle(one, depot, book)):
            console.print(f"{one.name} has ended")
            return
        if not end and is_free(one.folder):
            console.print(f"{one.name} is paused; `run resume {one.name}` goes on from here")
            return
        time.sleep(0.1)
    console.print(f"{one.name} will stop once its process has dealt with what it holds")


@run.command()
def resume(config: Config, name: RunName) -> None:
    """Let a paused run go on from its last committed round."""
    from stillroom.server.logbook import note_act

    settings = ServerConfig.load(config)
    with Runs(settings.runs) as runs:
        one = runs.get(name)
        _require_open(one)
        if one.wanted == ENDED:
            raise ConfigError(
                f"{one.name} was ended for good.", fix="Start the study in a new folder."
            )
        note_act(settings, "run resume", one.name)
        runs.want(one.name, RUNNING, time.time())
    console.print(f"{one.name} goes on within seconds, or when the server is started")


def recorded_error(record: dict[str, str]) -> StillroomError:
    """An error another process recorded, to be shown here with the same exit status."""
    error = StillroomError(record["what"], fix=record["fix"], code=record["code"])
    error.exit_status = int(record["exit_status"])  # type: ignore[misc]  # of this one error
    return error


def require_empty(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        ConfigError: STR-107.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} already holds something.", fix="Name a new or empty folder.", code="STR-107"
        )


def _require_open(one: Run) -> None:
    from stillroom.server.store.folder import RESULT

    if (one.folder / RESULT).exists():
        raise ConfigError(
            f"{one.name} has ended.", fix="See its result.json; start the study in a new folder."
        )


def _awaited(sites: tuple[str, ...], since: str) -> str:
    return f"{', '.join(sites)}{f', for {since}' if since else ''}" if sites else ""
