"""``stillroom-client init``: from an empty folder to an enrolled site, asking what it must."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from stillroom.client.setup import Answers

console = Console(highlight=False, soft_wrap=True)


def init(
    folder: Annotated[Path, typer.Option("--dir", help="Where keys, papers and work go.")],
    server: Annotated[str | None, typer.Option(help="HOST:PORT of the enrolment listener.")] = None,
    token: Annotated[str | None, typer.Option(help="From the operator; works once.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The CA's fingerprint, from the operator by another way.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A folder with scans and labels; may be repeated.")
    ] = None,
    edge: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the edge; port 443 of the same host if left out."),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Folder of the signed study.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    kit: Annotated[
        Path | None, typer.Option(help="The operator's kit, after `enrol --offline`; no network.")
    ] = None,
    ask: Annotated[
        bool,
        typer.Option("--ask/--no-ask", help="Ask for what no option says; else it is refused."),
    ] = True,
) -> None:
    """Ask what a site.toml needs, make keys and folders, join the consortium, and check it all."""
    from stillroom.client.enrolment_cli import finish, online
    from stillroom.client.setup import Answers, make_folders, refuse_if_there
    from stillroom.common.consortium import ungrouped

    refuse_if_there(folder)
    answers = _asked(
        Answers(server, token, fingerprint, tuple(data or ()), edge, study, device, kit), ask=ask
    ).checked()
    for remark in answers.remarks():
        console.print(f"[yellow]note:[/] {remark}")
    expected = ungrouped(str(answers.fingerprint))
    site: str | None
    if answers.kit is not None:
        site = finish(folder, answers.kit, expected, answers.form)
    else:
        site = online(folder, str(answers.server), str(answers.token), expected, answers.form)
    if site is None:
        console.print("not approved yet; run the same command again to go on waiting")
        raise typer.Exit(0)
    make_folders(folder)
    console.print(f"enrolled as {site}; [bold]{folder / 'site.toml'}[/] is written", markup=True)
    _check(folder / "site.toml")


def _asked(answers: "Answers", *, ask: bool) -> "Answers":
    """The answers, completed by questions where that is wanted."""
    from stillroom.client.setup import QUESTIONS, with_answer

    for question in QUESTIONS:
        if not ask or not question.is_open(answers):
            continue
        said = typer.prompt(question.text, default=question.default or None)
        answers = with_answer(answers, question.key, str(said))
    return answers


def _check(config: Path) -> None:
    """What the doctor says of the new site; the study is not there yet, and nothing runs."""
    from stillroom.client.doctor.checks import checks_of
    from stillroom.client.doctor.examination import Examination
    from stillroom.common.checkup import examine

    later = {"study", "consent", "courier", "runner"}
    results = [
        r
        for r in examine(checks_of("all"), Examination(config))
        if r.finding.outcome in {"failed", "warning"} and r.name not in later
    ]
    for r in results:
        console.print(f"[yellow]{r.name}:[/] {r.finding.saw} {r.finding.do}", markup=True)
    if not results:
        console.print("checked: nothing to mend")
    console.print("next: put the signed study in place, then")
    for command in ("consent give", "courier", "runner"):
        console.print(f"  stillroom-client {command} --config {config}", markup=False)
