"""``stillroom-client data``: what this site has, and why some of it cannot be used."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.client.pacs.pull_cli import pull
from stillroom.common.console import command_group
from stillroom.common.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from stillroom.client.intake.catalogue import Catalogue, Entry

data = command_group(__doc__)

CATALOGUE = "catalogue.json"
"""In the state folder; what ``scan`` writes and other commands read."""

State = Annotated[Path, typer.Option(help="Folder for the catalogue and this site's salt.")]


@data.callback()
def _group() -> None:
    """What this site has, and why some of it cannot be used. Only `pull` uses the network."""


data.command()(pull)


@data.command()
def scan(
    folder: Annotated[Path, typer.Argument(help="Scans and labels, in any folder structure.")],
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the catalogue and this site's salt.",
            show_default="that of --config, else ./state",
        ),
    ] = None,
    min_slices: Annotated[int, typer.Option(min=1, help="Fewest slices of a usable series.")] = 16,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="site.toml, whose [labels] say which file is which label.")
    ] = None,
) -> None:
    """List every series under FOLDER, with the reason and the fix where one cannot be used."""
    from rich.console import Console
    from rich.progress import Progress

    from stillroom.client.config import SiteConfig
    from stillroom.client.intake import index

    site = None if config is None else SiteConfig.load(config)
    state = state or (site.state if site else Path("state"))
    with Progress(console=Console(stderr=True), transient=True, disable=json_) as bar:
        task = bar.add_task("reading headers", total=None)
        catalogue = index.scan(
            folder,
            state=state,
            min_slices=min_slices,
            rules=site.rules if site else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    catalogue.save(state / CATALOGUE)
    if json_:
        typer.echo(json.dumps(catalogue.to_json() | {"accepted": len(catalogue.accepted)}))
    else:
        _print_catalogue(Console(highlight=False), catalogue)
    if not catalogue.accepted:
        raise DataError(
            f"None of {len(catalogue.entries)} series can be used.",
            fix="Follow the fixes listed above, or scan another folder.",
            code="STR-401",
        )


@data.command()
def show(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="From the table of `data scan`.")],
    png: Annotated[Path, typer.Option(help="Picture to write.")],
    state: State = Path("state"),
) -> None:
    """Draw three planes of a scan with all labels that belong to it. The picture stays here."""
    from rich.console import Console

    from stillroom.client.intake.catalogue import Catalogue
    from stillroom.client.intake.preview import preview
    from stillroom.client.picture import three_planes

    catalogue = Catalogue.load(state / CATALOGUE)
    shown = preview(catalogue, catalogue.entry(entry_id))
    picture = three_planes(
        shown.image_hu,
        shown.spacing_mm,
        mask=shown.mask,
        names=shown.names,
        points=shown.points,
        origin_mm=shown.origin_mm,
        title=entry_id,
    )
    png.parent.mkdir(parents=True, exist_ok=True)
    picture.save(png, "PNG")
    console = Console(stderr=True, highlight=False)
    for finding in shown.findings:
        console.print(f"[yellow]{finding.code}[/] {finding.reason} {finding.fix}", soft_wrap=True)


def _print_catalogue(console: "Console", catalogue: "Catalogue") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "where", "kind", "size", "spacing mm", "verdict", "labels"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "id")
    for entry in catalogue.entries:
        codes = " ".join(finding.code for finding in entry.findings)
        table.add_row(
            entry.id,
            escape(_where(entry, catalogue.root)),
            entry.kind,
            " x ".join(map(str, entry.size)),
            " x ".join(f"{mm:.3g}" for mm in entry.spacing_mm),
            "[green]accepted[/]" if entry.accepted else f"[yellow]{codes}[/]",
            escape(_labels(entry, catalogue)),
        )
    console.print(table)
    for entry in catalogue.entries:
        if entry.findings:
            console.print(f"\n[bold]{entry.id}[/] {escape(_where(entry, catalogue.root))}")
        for finding in entry.findings:
            console.print(f"  [yellow]{finding.code}[/] {escape(finding.reason)}", soft_wrap=True)
            console.print(f"  fix: {escape(finding.fix)}", soft_wrap=True)
    for file in catalogue.labels:
        if file.finding is not None:
            where = file.path.relative_to(catalogue.root).as_posix()
            console.print(f"\n[bold]label[/] {escape(_printable(where))}")
            console.print(f"  [yellow]{file.finding.code}[/] {file.finding.reason}", soft_wrap=True)
            console.print(f"  fix: {file.finding.fix}", soft_wrap=True)
    console.print(
        f"\n{len(catalogue.accepted)} accepted, "
        f"{len(catalogue.entries) - len(catalogue.accepted)} quarantined, "
        f"{len(catalogue.candidates)} label files, {catalogue.skipped} other files."
    )


def _where(entry: "Entry", root: Path) -> str:
    """Relative path: the file, or a series' folder. Printed on the site's own terminal only."""
    path = entry.files[0] if len(entry.files) == 1 else entry.files[0].parent
    return _printable(path.relative_to(root).as_posix())


def _printable(text: str) -> str:
    """Names that are not UTF-8 must not end the listing."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _labels(entry: "Entry", catalogue: "Catalogue") -> str:
    """Usable labels of an entry, by name."""
    return ", ".join(
        sorted({f.label for f in catalogue.labels if f.entry_id == entry.id and f.finding is None})
    )
