"""``stillroom-server doctor``: what is wrong with this server, and what to do about it."""

from pathlib import Path
from typing import Annotated

import typer

from stillroom.common.versions import own_version


def doctor(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a text that names nothing and nobody.")
    ] = None,
) -> None:
    """Check everything a server needs; exit status 1 for warnings, 2 where something failed."""
    from stillroom.common.checkup import examine, worst
    from stillroom.common.checkup_screen import show, write_report
    from stillroom.server.doctor.checks import CHECKS
    from stillroom.server.doctor.examination import Examination

    results = examine(CHECKS, Examination(config))
    show(results, as_json=json_)
    if report is not None:
        write_report(report, results, program=f"stillroom-server {own_version()} doctor")
        typer.echo(f"report without names in {report}", err=True)
    raise typer.Exit(worst(results))
