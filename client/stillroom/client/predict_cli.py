"""``stillroom-client predict``: read a scan with a released student."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stillroom.common.errors import ConfigError, StillroomError

DEVICES = ("auto", "cpu", "cuda")


def predict(
    scan: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Folder or file of a DICOM series, or a NIfTI or NRRD file."
        ),
    ],
    release: Annotated[Path, typer.Option(help="Folder of the release.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the results.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as cores.")] = 0,
    memory_mib: Annotated[
        int, typer.Option(min=1, help="Memory for intermediate results; more goes to disk.")
    ] = 1024,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read the whole field of view, not just the heart.")
    ] = False,
) -> None:
    """Mark the structures a study's student knows in one cardiac CT. Research only; not a medical device."""
    if device not in DEVICES:
        raise ConfigError("The device is none of auto, cpu, cuda.", fix="Correct --device.")
    _refuse_full(out)
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("loading the program"):
        from stillroom.client.predict.command import Request, run
    request = Request(scan, release, out, device, threads, memory_mib, whole=whole)  # type: ignore[arg-type]
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _Bar(console) as bar:
            about = run(request, bar.update)
    except StillroomError:
        # Nothing was written: leave no empty folder behind that a second try would stumble over.
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    _tell(console, about)


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            "The output folder already holds something.",
            fix="Name a new folder with --out, or empty this one.",
            code="STR-107",
        )


def _tell(console: Any, about: dict[str, Any]) -> None:
    for warning in about["warnings"]:
        console.print(f"[bold yellow]warning:[/] {warning}")
    seconds = sum(about["seconds"].values())
    device = about["device"]
    console.print(
        f"Read in {seconds:.1f} s ({device['kind']}, {device['precision']}). "
        "Research only; not a medical device."
    )
    typer.echo("prediction.json")


class _Bar:
    """A progress bar with one line per sweep of windows."""

    def __init__(self, console: Any) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("windows"),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` windows of the sweep ``what``."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
