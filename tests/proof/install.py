"""``stillroom-audit`` in a fresh environment that holds what it needs and nothing else.

The auditor's `pip install` brings stillroom's base dependencies; the command needs fewer. Those few are
installed alone, so that whatever else it came to import would stop it here.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from generation import SITES, World

ROOT = Path(__file__).parents[2]
NEEDS = (
    "annotated-types", "cffi", "click", "cryptography", "markdown-it-py", "mdurl", "numpy", "pycparser",
    "pydantic", "pydantic_core", "Pygments", "rich", "safetensors", "shellingham", "typer",
    "typing-inspection", "typing_extensions", "zstandard",
)  # fmt: skip
"""All that is installed beside stillroom itself."""


def commands(world: World) -> Iterator[list[str]]:
    """Every command but ``replay``, which reads the server's own code and Flower with it."""
    log, consortium = str(world.log), str(world.folder / "consortium.json")
    given = ["--consortium", consortium, "--release", str(world.release)]
    for site in SITES:
        given += ["--ledger", str(world.ledger(site)), "--seen", str(world.seen(site))]
    yield ["verify", log, *given]
    yield ["show", log, "--kind", "commit"]
    yield ["compare", log, str(world.ledger("north"))]
    for kind in ("jsonl", "csv", "fhir", "dicom"):
        yield ["export", log, "--format", kind, "--out", str(world.folder / kind)]
    yield ["report", log, *given, "--out", str(world.folder / "report.html")]


def install(folder: Path) -> Path:
    """A virtual environment with those packages alone, at the versions of constraints.txt; its ``bin``."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    pinned = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *pinned, *NEEDS], check=True, capture_output=True)
    subprocess.run([*pip, str(ROOT)], check=True, capture_output=True)
    return folder / "bin"


def rows(world: World, folder: Path) -> tuple[list[str], int, int]:
    """Markdown, how many commands ran, of how many."""
    try:
        programs = install(folder / "environment")
    except subprocess.CalledProcessError:
        return ["Not tried here: pip could not fetch the packages."], 1, 1
    lines, good, of = ["| command | exit status |", "|---|---|"], 0, 0
    for command in commands(world):
        done = subprocess.run(
            [str(programs / "stillroom-audit"), *command],
            capture_output=True,
            text=True,
            check=False,
        )
        # A log with gaps in participation, and nothing worse: warnings.
        right = done.returncode == (1 if command[0] in {"verify", "report"} else 0)
        good, of = good + right, of + 1
        words = " ".join(word for word in command if not word.startswith(("/", "--")))
        lines.append(
            f"| `{words}` | {done.returncode}{'' if right else ': ' + done.stderr[-200:]} |"
        )
    return lines, good, of
