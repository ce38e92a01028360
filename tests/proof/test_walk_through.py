"""The auditors' page: every command on it is run, and prints what the page says."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from generation import World
from typer.testing import CliRunner

from stillroom.server.audit.cli import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "auditors" / "walk-through.md"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
DIGEST = re.compile(r'[0-9a-f]{64}|[0-9a-f]{16}…|root: b["\'].*')
"""What every consortium has of its own: keys of its CA are random."""

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def steps() -> Iterator[tuple[str, list[str]]]:
    """Command and the lines it prints, by the page."""
    for block in BLOCK.findall(PAGE.read_text("utf-8")):
        command, output = "", list[str]()
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, output
                command, output = line[2:], []
            else:
                output.append(line)
        yield command, output


def plain(line: str) -> str:
    return DIGEST.sub("#", line).rstrip()


def run(command: str) -> str:
    """What a command prints; ours runs in this process, which spares it its start."""
    words = shlex.split(command)
    if words[0] == "stillroom-audit":
        return CliRunner().invoke(app, words[1:]).output
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_the_page_is_what_happens(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the example; the page may leave lines out, and may have none that is not printed."""
    shutil.copytree(world.folder, tmp_path / "example")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path / "example")
    wrong, count = [], 0
    for command, said in steps():
        printed = iter([plain(line) for line in run(command).splitlines()])
        wrong += [f"{command}: {line}" for line in said if plain(line) not in printed]
        count += len(said)
    assert wrong == []
    assert count > 70
    assert Path("report.html").is_file()
