"""``stillroom-rehearse``: a whole consortium on this machine, with the code that runs in the field."""

import signal
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stillroom.common.console import run_cli
from stillroom.common.errors import ConfigError

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)


@app.command()
def rehearse(
    out: Annotated[Path, typer.Option(help="New or empty folder for everything that is written.")],
    study: Annotated[
        Path | None, typer.Option(help="Study file (TOML).", show_default="the demo's")
    ] = None,
    sites: Annotated[
        int, typer.Option(min=1, max=200, help="Training sites; one more is held out.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the phantoms and the weights.")] = 0,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="SITE=FOLDER", help="Real scans that join SITE as unlabelled ones."),
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="One process, no ports, no TLS.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the edge.", show_default="a free one"),
    ] = None,
    labelled: Annotated[int, typer.Option(min=2, help="Labelled phantoms per training site.")] = 10,
    unlabelled: Annotated[int, typer.Option(min=0, help="Unlabelled ones.")] = 12,
    held_out: Annotated[int, typer.Option(min=1, help="Phantoms at the held-out site.")] = 8,
) -> None:
    """Run a study from empty folder to report and release."""
    from stillroom.common.study import Study
    from stillroom.deploy.consortium_files import Layout
    from stillroom.deploy.progress import RunProgress
    from stillroom.deploy.rehearsal import Plan
    from stillroom.deploy.rehearsal import rehearse as rehearse_plan
    from stillroom.server.run_cli import SUBSET

    loaded = Study.load(study or default_study())
    section = loaded.study.model_copy(update={"seed": seed if study is None else loaded.study.seed})
    plan = Plan(
        out=out,
        study=loaded.model_copy(update={"study": section}),
        sites=sites,
        seed=seed,
        data=parse_data(data or []),
        in_process=in_process,
        edge_port=port,
        labelled=labelled,
        unlabelled=unlabelled,
        held_out=held_out,
    )
    console.print(f"[bold]stillroom[/] rehearses study {loaded.study.name} in {out}")
    patients = _Patients()
    with RunProgress(console, plan.study) as watch:
        outcome = rehearse_plan(plan, watch, progress=patients)
    _publish(Layout(out), plan.study, outcome)
    if not outcome.result["complete_participation"]:
        console.print("[yellow]a result from a subset:[/] not everybody took part in everything")
        raise typer.Exit(SUBSET)


def _publish(layout: Any, study: Any, outcome: Any) -> None:
    from stillroom.deploy.consortium_files import logbook
    from stillroom.deploy.local_site import look_again
    from stillroom.deploy.report import write_report
    from stillroom.deploy.summary import draw_overlays, write_summary
    from stillroom.server.release_proof import prove_release
    from stillroom.server.workstation import release

    summary, book = write_summary(layout, outcome), logbook(layout)
    folder = layout.out / "release" if summary["student"]["sha256"] is not None else None
    names = [hospital.name for hospital in outcome.hospitals]
    if folder is not None:
        release(layout.study, layout.run, folder, run=summary)
        prove_release(
            book, folder, summary["study_digest"], settle=lambda: look_again(layout, names, book)
        )
        summary = write_summary(layout, outcome)
    student = summary["student"]["stage"]
    overlays = draw_overlays(layout, outcome, study, student) if student is not None else []
    write_report(layout.out / "report.html", summary=summary, overlays=overlays, release=folder)
    console.print(results_table(summary))
    for note in summary["notes"]:
        console.print(f"[yellow]note:[/] {note}")
    for what in ("summary.json", "report.html", *(["release"] if folder is not None else [])):
        console.print(f"  {what:<13} {layout.out / what}")
    found = summary["log"]
    who = ", ".join(found["cosigners"]) or "nobody"
    console.print(f"  {'log':<13} {book.log.folder}, {book.size()} entries; cosigned by {who}")


def results_table(summary: dict[str, Any]) -> Table:
    """The student's scores at the sites that trained nothing."""
    table = Table("label", "cases", "detected", "Dice or error", title="held-out sites, pooled")
    for name, row in summary["metrics"].get("pooled", {}).items():
        if "mean_auc" in row:
            score = "one class only" if row["mean_auc"] is None else f"AUC {row['mean_auc']:.3f}"
        elif "mean_dice" in row:
            score = f"Dice {row['mean_dice']:.3f}"
        elif row["median_error_mm"] is None:
            score = "found in too few" if row["detection_rate"] else "nothing found"
        else:
            score = f"median {row['median_error_mm']:.1f} mm"
        rate = row.get("detection_rate")
        found = "" if rate is None else f"{rate:.0%}"
        table.add_row(name, f"{row['cases']:g}", found, score)
    return table


class _Patients:
    """Progress of the phantoms: one line that is rewritten."""

    def __call__(self, done: int, total: int) -> None:
        if console.is_terminal:
            console.print(f"phantom patients {done}/{total}", end="\r" if done < total else "\n")
        elif done == total:
            console.print(f"phantom patients {done}/{total}")


def default_study() -> Path:
    """The demo's study file, which comes with the package."""
    return Path(str(files("stillroom.deploy") / "studies" / "demo.toml"))


def parse_data(pairs: list[str]) -> dict[str, tuple[Path, ...]]:
    """``SITE=FOLDER`` options by site.

    Raises:
        ConfigError: One is not of that form.
    """
    result: dict[str, tuple[Path, ...]] = {}
    for pair in pairs:
        site, equals, folder = pair.partition("=")
        if not (site and equals and folder):
            raise ConfigError("--data needs the form SITE=FOLDER.", fix="Write it that way.")
        result[site] = (*result.get(site, ()), Path(folder))
    return result


def main() -> None:
    """Entry point: an expected failure prints its code and fix, and sets the exit status."""
    # `kill` and a terminal that goes away stop everything as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    run_cli(app)


if __name__ == "__main__":
    main()
