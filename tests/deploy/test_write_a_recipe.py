"""docs/developers/write-a-recipe.md does what it says: its package, installed, joins a federation."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "developers" / "write-a-recipe.md"
STUDY = """
[study]
name = "supervised"
[volume]
spacing_mm = [9, 9, 9]
patch = [16, 16, 16]
hu_window = [-300, 700]
[label.chambers]
kind = "mask"
classes = ["LV", "RV", "LA", "RA", "MYO"]
[model.student]
arch = "light-swin"
feature_size = 12
"""


def blocks() -> dict[str, str]:
    """File name -> text, of every file that the page shows; the stage under ``stage``."""
    text = PAGE.read_text("utf-8")
    named = dict(re.findall(r"`([\w./]+)`[^\n`]*:\n\n```\w+\n(.*?)```", text, re.S))
    (stage,) = re.findall(r"```toml\n(\[\[stage\]\].*?)```", text, re.S)
    return {**named, "stage": stage}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the page's package as pip would leave it."""
    site, files = tmp_path / "site", blocks()
    for name in ("supervised_recipe/declared.py", "supervised_recipe/recipe.py"):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name], "utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = site / "supervised_recipe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", "utf-8"
    )
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points, "utf-8")
    return site


def run(module: str, *arguments: str, path: Path | None) -> subprocess.CompletedProcess[str]:
    """A stillroom command, with ``path`` installed beside it."""
    more = {} if path is None else {"PYTHONPATH": f"{path}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **more},
    )


def test_the_page_is_short() -> None:
    """Under 80 lines of code, all files together."""
    files = blocks()
    assert sum(len(text.splitlines()) for text in files.values()) < 80


def test_the_pages_recipe_joins_a_study(tmp_path: Path, installed: Path) -> None:
    """Listed, and a federation in one process trains by it; unknown where it is not installed."""
    study = tmp_path / "study.toml"
    stage = blocks()["stage"] + "train = { steps = 2, batch_size = 1 }\n"
    study.write_text(STUDY + stage, "utf-8")
    arguments = ("--out", str(tmp_path / "out"), "--study", str(study), "--in-process")
    sizes = ("--sites", "1", "--labelled", "3", "--unlabelled", "1", "--held-out", "1")

    absent = run("stillroom.server.cli", "study", "check", str(study), path=None)
    assert absent.returncode == 2
    assert "STR-102" in absent.stderr
    assert "no such recipe" in absent.stderr

    listed = run("stillroom.server.cli", "recipes", path=installed)
    assert "supervised" in listed.stdout

    done = run("stillroom.deploy.cli", *arguments, *sizes, path=installed)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    (trained,) = summary["stages"]
    assert (trained["recipe"], len(trained["rounds"])) == ("supervised", 2)
