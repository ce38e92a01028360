"""An operator's server to do harm to, with the real `serve` and `execute` where a fault is about them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import Faults
from place import OTHER, SITE, THIRD, Place, set_toml, wait_for_port

from stillroom.deploy.consortium_files import tell_server
from stillroom.server.alive import EXECUTE, is_alive
from stillroom.server.config import ServerConfig
from stillroom.server.store.folder import is_free
from stillroom.server.store.runs import Run, Runs

EDGE, INNER = 28443, 28000
QUIET = "import stillroom.server.doctor.machine as machine\nmachine.kernel_clock = lambda: 0"
"""The clock of the machine that the matrix runs on is none of the server's faults."""


@dataclass(frozen=True)
class View:
    """How the command is given.

    Attributes:
        prelude: Python that it runs first.
        before: Words before it, e.g. ``faketime``.
    """

    prelude: str = ""
    before: tuple[str, ...] = ()


SERVER_FAULTS = Faults(lambda _: View())
server_fault = SERVER_FAULTS.enter


def prepare(place: Place) -> None:
    """The server without a fault: three sites enrolled, who have consented; it has never run."""
    tell_server(place.layout, [SITE, OTHER, THIRD])
    shutil.copytree(place.layout.server, place.out / "operator")
    set_toml(place.out / "operator" / "server.toml", edge_port=EDGE, inner_port=INNER)
    (place.out / "operator" / "state").chmod(0o700)


@contextlib.contextmanager
def operator(place: Place) -> Iterator[Path]:
    """A copy of it to do harm to; its server.toml."""
    folder = place.out / "operator-now"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place.out / "operator", folder)
    try:
        yield folder / "server.toml"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def up(place: Place, config: Path, *, execute: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """The real server, up; its `serve`."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(place.running(_command("serve", config), "operator", EDGE))
        wait_for_port(INNER, process)
        wait_until((config.parent / "state" / "edge" / "edge.json").exists)
        if execute:
            stack.enter_context(place.running(_command("execute", config), "operator-exec", None))
            wait_until(lambda: is_alive(ServerConfig.load(config), EXECUTE))
        yield process


def _command(name: str, config: Path) -> list[str]:
    follow = ["--follow-parent", str(os.getpid())]
    return [sys.executable, "-P", "-m", "stillroom.server.cli", name, "-c", str(config), *follow]


def wait_until(holds: Callable[[], Any], seconds: float = 240) -> None:
    """Look again and again.

    Raises:
        TimeoutError: It never held.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to that")
        time.sleep(0.1)


def want_run(place: Place, config: Path, study: Path | None = None) -> Run:
    """A run that is wanted, of a copy of the study."""
    folder = config.parent / "study"
    shutil.copytree(study or place.layout.study, folder)
    with Runs(ServerConfig.load(config).runs) as runs:
        return runs.add("first", folder, config.parent / "run", time.time())


def edge_json(config: Path, **changes: Any) -> None:
    """Write what the edge would have; its own fields stay where they are not named."""
    path = config.parent / "state" / "edge" / "edge.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text("utf-8")) if path.exists() else {"sites": {}}
    path.write_text(json.dumps(before | changes), "utf-8")


def doctor(config: Path, view: View, *, as_json: bool) -> subprocess.CompletedProcess[str]:
    """The command itself."""
    code = f"{QUIET}\n{view.prelude}\nfrom stillroom.server.cli import main\nmain()"
    words = ["doctor", "--config", str(config), *(["--json"] if as_json else [])]
    return subprocess.run(
        [*view.before, sys.executable, "-P", "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
    )


def running_run(run: Run) -> bool:
    """Whether a process works in its folder."""
    return run.folder.exists() and not is_free(run.folder)
