"""Rehearsals as the processes a person would start."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).with_name("tiny.toml")


@pytest.fixture(scope="session")
def rehearse_command() -> Callable[..., list[str]]:
    """The command line of a tiny rehearsal."""

    def command(out: Path, *more: str, study: Path = TINY) -> list[str]:
        sizes = ["--labelled", "3", "--unlabelled", "2", "--held-out", "2"]
        module = ["-P", "-m", "stillroom.deploy.cli"]
        where = ["--out", str(out), "--study", str(study)]
        return [sys.executable, *module, *where, *sizes, *more]

    return command


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], dict[int, str]]:
    """Every process whose command line names a folder: pid -> command line."""

    def find(folder: Path) -> dict[int, str]:
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(folder) in line:
                found[int(entry.name)] = line
        return found

    return find


@pytest.fixture(scope="module")
def in_process(
    tmp_path_factory: pytest.TempPathFactory, rehearse_command: Callable[..., list[str]]
) -> Path:
    """The tiny study in one process."""
    out = tmp_path_factory.mktemp("in-process") / "out"
    done = subprocess.run(
        rehearse_command(out, "--in-process"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out
