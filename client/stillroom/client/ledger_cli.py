"""``stillroom-client ledger``: what left this site, and the proof that nobody changed the record."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.common.console import command_group
from stillroom.common.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from stillroom.client.ledger import Line

ledger = command_group(__doc__)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
]
File = Annotated[
    Path | None, typer.Option(help="A ledger file, in place of --config.", show_default=False)
]


@ledger.callback()
def _group() -> None:
    """What left this site, and what was refused. Reads one file; no network."""


@ledger.command()
def show(
    config: Config = None,
    file: File = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    decision: Annotated[str | None, typer.Option(help="Only allowed or refused.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """List what was asked, what left and what was refused, oldest first."""
    from rich.console import Console

    from stillroom.client.ledger import read

    lines = [
        line
        for line in read(_path(config, file))
        if stage in (None, line.stage) and decision in (None, line.decision)
    ]
    if json_:
        for line in lines:
            typer.echo(json.dumps(line.model_dump(mode="json")))
        return
    _print(Console(highlight=False), lines)


@ledger.command()
def verify(config: Config = None, file: File = None) -> None:
    """Recompute the chain; exit status 3 where a line was changed, removed or put in later."""
    from stillroom.client.ledger import check

    path = _path(config, file)
    state = check(path)
    typer.echo(f"{state.lines} lines hold. Last line: {state.head}")
    if state.torn:
        typer.echo(
            f"{len(state.torn)} bytes after it belong to a line that was being written when the "
            "machine stopped; nothing left on the strength of it. The courier sets them aside."
        )


@ledger.command()
def receipts(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
    ],
) -> None:
    """Check the receipt of every update that left; exit status 3 where one does not hold. Offline."""
    from rich.console import Console
    from rich.table import Table

    from stillroom.client.config import SiteConfig
    from stillroom.client.ledger import NAME, read
    from stillroom.client.pinning import pinned
    from stillroom.client.receipts import Receipts
    from stillroom.common.errors import TrustError
    from stillroom.common.log_identity import log_verifier

    site = SiteConfig.load(config)
    if site.consortium is None:
        raise ConfigError("This site joined no consortium.", fix="Enrol it first.")
    path = site.courier_state / NAME
    found = Receipts(site.courier_state).check(
        read(path) if path.is_file() else (), site.site, log_verifier(pinned(site.consortium))
    )
    table = Table("line", "stage", "round", "update", "receipt", "log entry", "what")
    for one in found:
        line = one.line
        entry = "" if one.index is None else str(one.index)
        table.add_row(
            str(line.sequence), line.stage, str(line.round), line.content[:16], one.result, entry, one.why
        )  # fmt: skip
    Console(highlight=False).print(table)
    good = sum(one.result == "ok" for one in found)
    typer.echo(f"{good} of {len(found)} updates have a receipt that holds.")
    if any(one.result == "FAILED" for one in found):
        raise TrustError(
            "A receipt does not hold, or says other things than the ledger.",
            fix="Keep both as evidence and show them to an auditor.",
            code="STR-222",
        )


def _path(config: Path | None, file: Path | None) -> Path:
    from stillroom.client.config import SiteConfig
    from stillroom.client.ledger import NAME

    if (config is None) == (file is None):
        raise ConfigError("Which ledger is not clear.", fix="Give either --config or --file.")
    path = SiteConfig.load(config).courier_state / NAME if config is not None else file
    if path is None or not path.is_file():
        raise ConfigError(
            f"{path} does not exist.",
            fix="The courier makes it when it starts; check the path.",
            code="STR-101",
        )
    return path


def _print(console: "Console", lines: "list[Line]") -> None:
    from rich.table import Table

    table = Table("#", "time (UTC)", "what", "stage", "round", "MiB", "as", "norm", "cases", "why")
    for line in lines:
        table.add_row(
            str(line.sequence),
            line.time.strftime("%Y-%m-%d %H:%M:%S"),
            f"{line.kind} {line.message}",
            line.stage,
            str(line.round or ""),
            f"{line.bytes / 2**20:.2f}" if line.bytes else "",
            line.encoding,
            f"{line.norm:.4g}" if line.norm else "",
            str(max(line.samples.values())) if line.samples else "",
            line.code,
        )
    console.print(table)
