"""A checkup on the screen and as a file."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.common.checkup import Outcome, Result, report, worst
from stillroom.common.errors import ConfigError

STYLES: dict[Outcome, str] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}


def show(results: Sequence[Result], *, as_json: bool) -> None:
    """Print every check: a line that says what was seen, and one that says what to do."""
    if as_json:
        value = {"exit_status": worst(results), "checks": [r.as_json() for r in results]}
        typer.echo(json.dumps(value, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(r.name) for r in results)
    for r in results:
        f = r.finding
        mark = f"[{STYLES[f.outcome]}]{f.outcome:<8}[/]"
        code = f" [bold]{f.code}[/]" if f.code else ""
        console.print(f"{mark} {r.name:<{width}} {escape(_plain(f.saw))}{code}")
        if f.do and f.outcome != "ok":
            console.print(f"{'':<8} {'':<{width}} [bold]do:[/] {escape(_plain(f.do))}")
    counts = Counter(r.finding.outcome for r in results)
    said = ", ".join(f"{counts[o]} {o}" for o in STYLES if counts[o])
    console.print(f"\n{len(results)} checks: {said}.")
    first = next((r for r in results if r.finding.outcome == "failed"), None)
    if first is not None:
        console.print(f"Begin with [bold]{first.name}[/].")


def write_report(path: Path, results: Sequence[Result], *, program: str) -> None:
    """Write what may be sent away.

    Raises:
        ConfigError: STR-101, the file cannot be written.
    """
    head = (
        "Nothing in here names a site, host, address, path or person of the place it comes from.",
        (
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, "
            f"Linux {platform.release().split('-')[0]}, {platform.machine()}"
        ),
    )
    try:
        path.write_text(report(results, title=program, head=head), "utf-8")
    except OSError as error:
        raise ConfigError(
            "The report cannot be written.", fix="Name another file.", code="STR-101"
        ) from error


def _plain(text: str) -> str:
    """No control characters: some words come from a stranger's certificate."""
    return "".join(c for c in text if c.isprintable())
