"""``stillroom-client doctor``: what is wrong here, and what to do about it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Part(StrEnum):
    """Whose checks."""

    all = "all"
    courier = "courier"
    runner = "runner"


def doctor(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a text for the operator; it names nothing.")
    ] = None,
    part: Annotated[
        Part, typer.Option(help="Only what can be seen from one of the two containers.")
    ] = Part.all,
) -> None:
    """Check everything this site needs; exit status 1 for warnings, 2 where something failed."""
    from stillroom.client.doctor.checks import checks_of
    from stillroom.client.doctor.examination import Examination
    from stillroom.common.checkup import examine, worst
    from stillroom.common.checkup_screen import show, write_report
    from stillroom.common.versions import own_version

    results = examine(checks_of(part.value), Examination(config))
    show(results, as_json=json_)
    if report is not None:
        write_report(report, results, program=f"stillroom-client {own_version()} doctor")
        typer.echo(f"report without names in {report}", err=True)
    raise typer.Exit(worst(results))
