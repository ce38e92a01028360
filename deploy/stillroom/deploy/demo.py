"""``make demo``: the rehearsal of the demo's study, and its student on a real CT.

The real CT is the contrast scan of the test data folder (``STILLROOM_TEST_DATA``) or any DICOM
folder or NIfTI named with ``--ct``. Without either the student reads a held-out phantom instead,
and the demo says so.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from stillroom.common.console import run_cli
from stillroom.common.errors import ConfigError
from stillroom.deploy.cli import console, rehearse

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False, help=__doc__)

REAL_CT = Path("totalsegmentator/aorta_report/test_result/models/ct_cropped.nii.gz")
MARK = ".stillroom-demo"


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder of the demo; an earlier demo there is replaced.")
    ],
    ct: Annotated[Path | None, typer.Option(help="A CT to predict on.", show_default=False)] = None,
) -> None:
    """Rehearse the demo's study and let its student read a CT."""
    from stillroom.client.predict_cli import predict  # noqa: PLC0415  # loads torch

    started = time.monotonic()
    _replace_earlier(out)
    rehearse(out=out)
    (out / MARK).touch()
    source, what = _scan_to_read(out, ct)
    console.print(f"the student reads {what}")
    predict(source, release=out / "release", out=out / "prediction")
    for what in ("overlay.png", "prediction.json"):
        console.print(f"  {what:<15} {out / 'prediction' / what}")
    console.print(f"open {out / 'report.html'} in a browser. {time.monotonic() - started:.0f} s.")


def _scan_to_read(out: Path, ct: Path | None) -> tuple[Path, str]:
    if ct is not None:
        return ct, str(ct)
    folder = os.environ.get("STILLROOM_TEST_DATA")
    if folder and (Path(folder) / REAL_CT).is_file():
        return Path(folder) / REAL_CT, "a real contrast CT, of which it has seen nothing"
    console.print("[yellow]note:[/] no real CT here; name one with --ct or STILLROOM_TEST_DATA.")
    phantom = next((out / "scans" / "summit").glob("labelled/*/ct"))
    return phantom, "a held-out phantom"


def _replace_earlier(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not ((out / MARK).exists() or ((out / "scans").is_dir() and (out / "sites").is_dir())):
        raise ConfigError(
            f"{out} holds something that is not a demo.", fix="Name another folder.", code="STR-107"
        )
    shutil.rmtree(out)


def main() -> None:
    """Entry point."""
    run_cli(app)


if __name__ == "__main__":
    main()
