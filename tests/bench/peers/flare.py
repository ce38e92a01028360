"""NVFlare 2.9 beside us, in an environment of its own: provisioned, mutual TLS, real processes.

``STILLROOM_BENCH_NVFLARE`` names the Python of an environment that holds it, or is 1: then one is
made in a temporary folder with pip. Unset, NVFlare is left out of the table.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sampling import Sampler
from wirecount import WireCount

from peers.measured import Measured, rounds_of
from stillroom.deploy.processes import free_ports

HERE = Path(__file__).parent
INJECT = HERE.with_name("inject")
VERSION = "2.9.0"
BUILDERS = """
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {template_file: [master_template.yml]}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {config_folder: config}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def python_of() -> tuple[str | None, str]:
    """NVFlare's Python, or None and why there is none."""
    wanted = os.environ.get("STILLROOM_BENCH_NVFLARE", "")
    if not wanted:
        return None, "not installed (set STILLROOM_BENCH_NVFLARE=1 to have it installed)"
    if wanted != "1":
        return wanted, ""
    folder = Path(tempfile.gettempdir()) / f"stillroom-bench-nvflare-{VERSION}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "-q", f"nvflare=={VERSION}"]
            subprocess.run(install, check=True, timeout=900)
        except (subprocess.SubprocessError, OSError):
            return None, "not installed (pip could not install it)"
        (folder / "complete").touch()
    return str(python), ""


@dataclass
class Flare:
    """Its processes.

    Attributes:
        python: Of its environment.
        out: A new folder.
        shapes: Of the model.
        sites: How many.
        rounds: How many.
    """

    python: str
    out: Path
    shapes: Mapping[str, tuple[int, ...]]
    sites: int = 3
    rounds: int = 2
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int | None = None

    def run(self, timeout_s: float = 600) -> Measured:
        """Set up, run all rounds, measure, stop."""
        self.out.mkdir(parents=True)
        shapes, times = self.out / "shapes.json", self.out / "times.jsonl"
        shapes.write_text(json.dumps({n: list(s) for n, s in self.shapes.items()}), "utf-8")
        self._provision()
        arguments = [str(self.out / "jobs"), str(shapes), str(times)]
        self._call(str(HERE / "flare_job.py"), *arguments, str(self.sites), str(self.rounds))
        try:
            with Sampler(self._pids, child=_child) as sampler, WireCount(lambda: self.port) as wire:
                self._start()
                time.sleep(8)  # its server listens after that; a client that comes early waits 10 s
                kit = str(self._kit("admin@bench.org"))
                job = str(self.out / "jobs" / "bench")
                self._call("-m", "nvflare.cli", "job", "submit", "-j", job, "--startup-kit", kit)
                notes = self._wait(times, timeout_s)
        finally:
            self._stop()
        starts = [n["t"] for n in notes if n["what"] == "started"]
        end = max(n["t"] for n in notes)
        spans = list(zip(starts, [*starts[1:], end], strict=True))
        found = rounds_of(f"NVFlare {VERSION}", sampler, spans, servers=("server", "server job"))
        found.count(wire, spans, self.sites)
        found.notes.append("FedAvgRecipe with every default, NumPy, mutual TLS; no torch installed")
        return found

    def _provision(self) -> None:
        (self.port,) = free_ports(1)
        people = [
            "api_version: 3",
            "name: bench",
            "description: bench",
            "participants:",
            f"  - {{name: localhost, type: server, org: bench, fed_learn_port: {self.port}}}",
            *(f"  - {{name: site-{n:03d}, type: client, org: bench}}" for n in self._numbers),
            "  - {name: admin@bench.org, type: admin, org: bench, role: project_admin}",
        ]
        project = self.out / "project.yml"
        project.write_text("\n".join(people) + BUILDERS, "utf-8")
        workspace = str(self.out / "ws")
        self._call("-m", "nvflare.cli", "provision", "-p", str(project), "-w", workspace, "--force")
        local = self._kit("localhost") / "local"
        text = (local / "resources.json.default").read_text("utf-8")
        # Jobs and snapshots below our folder instead of a fixed one in /tmp.
        (local / "resources.json").write_text(
            text.replace("/tmp/nvflare", str(self.out / "store")),  # noqa: S108
            "utf-8",
        )

    @property
    def _numbers(self) -> range:
        return range(1, self.sites + 1)

    def _kit(self, name: str) -> Path:
        return self.out / "ws" / "bench" / "prod_00" / name

    def _start(self) -> None:
        for kit in ("localhost", *(f"site-{n:03d}" for n in self._numbers)):
            name = "server" if kit == "localhost" else kit
            with (self.out / f"{name}.log").open("wb") as log:
                self.running[name] = subprocess.Popen(
                    ["bash", str(self._kit(kit) / "startup" / "sub_start.sh"), "--once"],
                    stdout=log,
                    stderr=log,
                    env=self._env(),
                    start_new_session=True,
                )

    def _call(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.python, *arguments],
            env=self._env(),
            cwd=self.out,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        if done.returncode:
            raise RuntimeError(
                f"NVFlare: {arguments[:4]}: {done.stdout[-600:]}{done.stderr[-600:]}"
            )

    def _env(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))},
            "PATH": f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{HERE}{os.pathsep}{INJECT}",
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.out),
        }

    def _wait(self, times: Path, timeout_s: float) -> list[dict[str, float]]:
        """Until the last round's model is saved."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if times.exists():
                notes = [json.loads(line) for line in times.read_text("utf-8").splitlines()]
                if [n["what"] for n in notes].count("saved") >= self.rounds:
                    return notes
            time.sleep(0.2)
        raise TimeoutError("NVFlare did not finish its rounds")

    def _pids(self) -> dict[str, int]:
        return {n: p.pid for n, p in self.running.items() if p.poll() is None}

    def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running.values():
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue
            time.sleep(2.0 if number == signal.SIGTERM else 0.0)
        for process in self.running.values():
            process.wait()


def _child(parent: str, line: str) -> str | None:
    """A job runs in a process of its own below each participant's; the parent relays its bytes."""
    return f"{parent} job" if "runner_process" in line or "worker_process" in line else None
