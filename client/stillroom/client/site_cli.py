"""``stillroom-client status``, ``pause``, ``resume``, ``logs`` and ``leave``."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
]


class Part(StrEnum):
    """Whose log."""

    both = "both"
    courier = "courier"
    runner = "runner"


def status(
    config: Config,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say on one screen how this site is; reads files and asks nobody."""
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.markup import escape

    from stillroom.client.config import SiteConfig
    from stillroom.client.site_status import in_words, look

    now = datetime.now(UTC)
    found = look(SiteConfig.load(config), now)
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for subject, said in in_words(found, now):
        console.print(f"[bold]{subject:<12}[/] {escape(said)}")


def pause(
    config: Config,
    why: Annotated[str, typer.Option(help="For the people here; it never leaves.")] = "",
) -> None:
    """Take no task any more and stop the one under way; stay connected. Lasts until `resume`."""
    from stillroom.client.config import SiteConfig
    from stillroom.client.pausing import mirror, paused_since
    from stillroom.client.pausing import pause as pause_site

    site = SiteConfig.load(config)
    pause_site(site.courier_state, why)
    mirror(site.courier_state, site.exchange)
    typer.echo(
        f"{site.site} is paused since {paused_since(site.courier_state):%Y-%m-%d %H:%M} UTC."
    )
    typer.echo("Go on with `stillroom-client resume`.")


def resume(config: Config) -> None:
    """End a pause; a task that is still open is done again."""
    from stillroom.client.config import SiteConfig
    from stillroom.client.pausing import mirror
    from stillroom.client.pausing import resume as resume_site

    site = SiteConfig.load(config)
    was = resume_site(site.courier_state)
    mirror(site.courier_state, site.exchange)
    typer.echo(f"{site.site} goes on." if was else f"{site.site} was not paused.")


def logs(
    config: Config,
    part: Annotated[Part, typer.Option(help="Whose.")] = Part.both,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many.")] = 50,
    problems: Annotated[bool, typer.Option(help="Only warnings and errors.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Show what courier and runner have logged lately, oldest first."""
    from stillroom.client.config import SiteConfig
    from stillroom.client.service_logs import (
        COURIER_LOG,
        RUNNER_LOG,
        SEVERITY,
        LogLine,
        tail,
    )
    from stillroom.client.service_logs import follow as follow_files

    site = SiteConfig.load(config)
    files = [("courier", site.courier_state / COURIER_LOG), ("runner", site.state / RUNNER_LOG)]
    if part is not Part.both:
        files = [entry for entry in files if entry[0] == part.value]
    severity = SEVERITY["warning"] if problems else 0

    def show(line: LogLine) -> None:
        typer.echo(json.dumps(line.fields) if json_ else line.text())

    for line in tail(files, lines, severity):
        show(line)
    for line in follow_files(files, severity) if follow else ():
        show(line)


def leave(
    config: Config,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
) -> None:
    """Leave the consortium for good: withdraw, be shut out, wipe all copies; the ledger stays."""
    from stillroom.client import leaving
    from stillroom.client.config import SiteConfig
    from stillroom.common.errors import ResourceError

    site = SiteConfig.load(config)
    if not yes:
        typer.echo(
            "This withdraws every consent, has the server let this site in no more, and removes "
            "working copies,\npseudo-labels, predictions and models. Scans, ledger, receipts and "
            "keys stay. To take part again\nthe operator has to invite this site anew."
        )
        typer.confirm(f"Does {site.site} leave for good?", abort=True)
    left = leaving.leave(site, typer.echo)
    if left.server == "not reached":
        raise ResourceError(
            "This site has left, and the server could not be told.",
            fix="Run the same command again when the line is back, or telephone the operator: "
            f"`stillroom-server site revoke {site.site}`.",
            code="STR-504",
        )
    typer.echo(f"{site.site} has left.")
