"""``python -m stillroom.deploy.images_cli``, which is ``make image``: images, and tarballs of them."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stillroom.common.console import command_group, run_cli

console = Console(highlight=False, soft_wrap=True)
app = command_group(__doc__)


@app.command()
def make(
    out: Annotated[Path, typer.Option(help="Where the tarballs go.")] = Path("image-out"),
    base: Annotated[str, typer.Option(help="Image with Python 3.11 and venv to build on.")] = "",
    engine: Annotated[str, typer.Option(help="podman or docker.")] = "podman",
    side: Annotated[str, typer.Option(help="client, server, or both.")] = "both",
) -> None:
    """Fetch wheels, build without a network, and pack: image, compose file, units, checksums."""
    from stillroom.deploy import images

    root = Path(__file__).parents[3]
    with console.status("fetching wheels"):
        count = images.fill_wheelhouse(root, root / "deploy" / "wheelhouse")
    console.print(f"{count} wheels in deploy/wheelhouse")
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607  # whichever git builds here
        cwd=root,
        text=True,
        capture_output=True,
        check=False,
    ).stdout.strip()
    out.mkdir(parents=True, exist_ok=True)
    for one in images.SIDES if side == "both" else (side,):
        with console.status(f"building {one}"):
            image = images.build(
                images.Engine(engine),
                root,
                one,
                base=base or images.DEFAULT_BASE,
                version=images.release(),
                revision=revision or "unknown",
            )
            packed = images.pack(images.Engine(engine), root, one, image, out)
        console.print(f"{image} in {packed} ({packed.stat().st_size / 1e6:.0f} MB)", markup=False)


if __name__ == "__main__":
    run_cli(app)
