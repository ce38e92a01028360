"""``stillroom-audit``: what an auditor runs on a published log. Needs no server and trusts none."""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillroom.common.console import command_group, run_cli
from stillroom.server.audit.findings import EXIT_STATUS, Finding, verdict, worst
from stillroom.server.audit.options import Log, told_what_to_audit
from stillroom.server.audit.reading import Given

if TYPE_CHECKING:
    from stillroom.server.audit.case import Case
    from stillroom.server.audit.checks import Check

app = command_group(__doc__)
console = Console(highlight=False, soft_wrap=True)
COLOURS = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}


@app.command()
@told_what_to_audit
def verify(given: Given) -> None:
    """Check everything; exit status 0 when all of it holds, 1 with warnings, 3 when anything fails."""
    _, findings, left = _checked(given)
    _print(findings)
    if left:
        skipped = ", ".join(f"{check.number}" for check in left)
        console.print(f"Not made, for want of --seen, --release or --ledger: {skipped}.")
    console.print(verdict(findings))
    raise typer.Exit(EXIT_STATUS[worst(findings)])


@app.command()
def show(
    log: Log,
    site: Annotated[str | None, typer.Option(help="Entries about this site.")] = None,
    study: Annotated[str | None, typer.Option(help="Beginning of a study's digest.")] = None,
    stage: Annotated[str | None, typer.Option(help="Entries of this stage.")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="Entries of this round.")] = None,
    kind: Annotated[str | None, typer.Option(help="Entries of this kind, e.g. update.")] = None,
) -> None:
    """Print entries, one line each. Nothing is verified: that is what `verify` does."""
    from stillroom.server.audit.reading import open_log
    from stillroom.server.audit.selection import Selection, line

    contents = open_log(log).contents
    wanted = Selection(site=site, study=study, stage=stage, round=round_, kind=kind)
    count = 0
    for index, entry in contents.numbered():
        if wanted.takes(entry):
            count += 1
            console.print(Text(line(index, entry)))
    console.print(f"{count} of {contents.size} entries. Not verified.")


@app.command()
def compare(
    log: Log,
    ledger: Annotated[Path, typer.Argument(help="A site's ledger.jsonl.")],
    site: Annotated[str | None, typer.Option(help="Whose it is.")] = None,
) -> None:
    """Lay a site's ledger beside the log: what left, and what the server wrote down of it."""
    from stillroom.server.audit.checks import compare as lay_beside
    from stillroom.server.audit.reading import ledger_of, open_log

    told = open_log(log)
    told.ledgers = [ledger_of(f"{site}={ledger}" if site else str(ledger))]
    findings = lay_beside(told)
    _print(findings)
    console.print(f"{verdict(findings)} The log itself was not verified.")
    raise typer.Exit(EXIT_STATUS[worst(findings)])


@app.command()
def export(
    log: Log,
    out: Annotated[Path, typer.Option("--out", help="File to write.", show_default=False)],
    format_: Annotated[
        Literal["jsonl", "csv", "fhir", "dicom"],
        typer.Option(
            "--format",
            help="jsonl, csv, fhir (R4 AuditEvent in a Bundle) or dicom (PS3.15 A.5, a message a line).",
        ),
    ] = "jsonl",
) -> None:
    """Write the log in a form that other programs read."""
    from stillroom.server.audit import export_dicom, export_fhir, export_tables
    from stillroom.server.audit.reading import open_log

    contents = open_log(log).contents
    origin = contents.head.origin if contents.head else "log"
    entries = contents.numbered()
    lines: Iterable[str]
    match format_:
        case "jsonl":
            lines = export_tables.json_lines(entries)
        case "csv":
            lines = export_tables.csv_lines(entries)
        case "fhir":
            lines = export_fhir.bundle_text(entries, origin)
        case "dicom":
            lines = export_dicom.message_lines(entries, origin)
    with out.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(lines)
    console.print(f"{contents.size} entries in {out}. Not verified.")


@app.command()
@told_what_to_audit
def report(
    given: Given,
    *,
    out: Annotated[
        Path, typer.Option("--out", help="File to write, e.g. report.html.", show_default=False)
    ],
) -> None:
    """Verify, and write one page that an auditor can read, print and sign."""
    from stillroom.common.tensorfile import write_durably
    from stillroom.server.audit.report import page

    case, findings, left = _checked(given)
    checked = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, with stillroom-audit {version('stillroom')}"
    write_durably(out, page(case, findings, left, checked).encode("utf-8"))
    console.print(f"{out}: {verdict(findings)}")
    raise typer.Exit(EXIT_STATUS[worst(findings)])


@app.command()
def replay(
    log: Log,
    run: Annotated[Path, typer.Option("--run", help="The run's folder, with updates/ in it.")],
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="Only this round.")] = None,
) -> None:
    """Make every round again whose updates were kept; exit status 3 where a bit differs."""
    from stillroom.server.audit.reading import open_log
    from stillroom.server.audit.replay import replay as make_again

    total = same = 0
    for one in make_again(open_log(log).history, run, stage=stage, number=round_):
        total, same = total + 1, same + one.identical
        what = "identical" if one.identical else f"DIFFERS {one.why}"
        where = f"{one.stage}, round {one.round}: {one.updates} updates, model {one.expected[:16]}"
        console.print(Text(f"{where}: {what}"))
    console.print(f"replay {same}/{total} identical. The log itself was not verified.")
    raise typer.Exit(0 if same == total else 3)


def _checked(given: Given) -> "tuple[Case, list[Finding], list[Check[Any]]]":
    """What was given, what was found, and the checks for which nothing was given."""
    from stillroom.server.audit.checks import not_made, verify
    from stillroom.server.audit.reading import open_case

    case = open_case(given)
    return case, verify(case), list(not_made(case))


def _print(findings: list[Finding]) -> None:
    """A table for people; a line each where the output goes into a file or another program."""
    if console.is_terminal:
        console.print(_table(findings))
        return
    for f in findings:
        where = f"{f.where}: " if f.where else ""
        console.print(Text(f"{f.number:>2} {f.result:<7} {f.check}: {where}{f.meaning}"))


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    for name in ("no.", "check", "result", "where", "what it means"):
        table.add_column(name, justify="right" if name == "no." else "left", overflow="fold")
    for finding in findings:
        result = Text(finding.result, style=COLOURS[finding.result])
        cells = (Text(finding.where), Text(finding.meaning))
        table.add_row(str(finding.number), finding.check, result, *cells)
    return table


def main() -> None:
    """Entry point."""
    run_cli(app)


if __name__ == "__main__":
    main()
