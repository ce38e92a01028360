"""``python -m stillroom.deploy.phantom OUT``: synthetic cases for somebody who wants data now."""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.progress import track

from stillroom.common.console import run_cli
from stillroom.common.errors import ConfigError
from stillroom.deploy.phantom.annotations import (
    burden_of,
    write_classes,
    write_markups,
    write_mask,
)
from stillroom.deploy.phantom.dicom import draw_ids, write_series
from stillroom.deploy.phantom.painting import make_case
from stillroom.deploy.phantom.scanner import SCANNERS
from stillroom.deploy.phantom.sheet import draw_case

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="New folder; one sub-folder per case.")],
    *,
    cases: Annotated[int, typer.Option(min=1, help="How many patients.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    size: Annotated[int, typer.Option(min=16, max=512, help="Voxels in plane.")] = 96,
    field_of_view: Annotated[
        float, typer.Option(min=60, help="Millimetres; 192 shows the heart, 400 the chest.")
    ] = 192.0,
    scanner: Annotated[str, typer.Option(help=f"{', '.join(SCANNERS)}, or `all` in turn.")] = "all",
    png: Annotated[bool, typer.Option("--png", help="Also draw a contact sheet.")] = False,
) -> None:
    """Write synthetic cardiac CT as DICOM series, with label maps, points and classes (CSV)."""
    names = list(SCANNERS) if scanner == "all" else [scanner]
    if scanner != "all" and scanner not in SCANNERS:
        raise ConfigError(
            f"There is no scanner called {scanner}.", fix=f"Use one of {', '.join(SCANNERS)}."
        )
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty.", fix="Name a new or empty folder.", code="STR-107")
    tiles: list[Image.Image] = []
    judged: list[tuple[str, str]] = []
    for k in track(range(cases), description="painting"):
        name = names[k % len(names)]
        case = make_case(seed + k, name, size=size, spacing_mm=field_of_view / size)
        patient = f"A{k + 1:04d}"
        folder = out / patient
        ids = draw_ids("python", patient, seed + k)
        write_series(case, folder / "ct", ids, SCANNERS[name])
        judged.append((ids.series, burden_of(case)))
        for label in ("chambers", "vessels", "calcification", "heart"):
            write_mask(case, getattr(case, label), folder / f"{label}.nii.gz")
        write_markups(case.points, folder / "landmarks.mrk.json")
        if png:
            tiles.append(draw_case(case))
    write_classes(judged, out / "burden.csv")
    if tiles:
        _paste(tiles).save(out / "sheet.png")
    typer.echo(f"{cases} cases in {out}")


def _paste(tiles: list[Image.Image]) -> Image.Image:
    """Two cases to a row."""
    width, height = tiles[0].size
    columns = min(2, len(tiles))
    sheet = Image.new("RGB", (width * columns, height * -(-len(tiles) // columns)))
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (width * (k % columns), height * (k // columns)))
    return sheet


if __name__ == "__main__":
    run_cli(app)
