"""Plain Flower 1.41 beside us: SuperLink with TLS, stock SuperNodes, FedAvg, resident clients."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sampling import Sampler
from wirecount import WireCount

from peers.measured import Measured, rounds_of
from stillroom.deploy.processes import free_ports
from stillroom.server.foundation import Papers, found

HERE = Path(__file__).parent
INJECT = HERE.with_name("inject")
PROJECT = """
[project]
name = "plain-fedavg"
version = "1.0.0"
description = "FedAvg of the bench's tensors."
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "bench"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "flower_apps:server"
clientapp = "flower_apps:client"
[tool.flwr.app.config]
shapes = ""
times = ""
sites = 0
rounds = 0
"""


@dataclass
class PlainFlower:
    """Its processes.

    Attributes:
        out: A new folder.
        shapes: Of the model.
        sites: How many.
        rounds: How many.
    """

    out: Path
    shapes: Mapping[str, tuple[int, ...]]
    sites: int = 3
    rounds: int = 2
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int | None = None

    def run(self, timeout_s: float = 600) -> Measured:
        """Set up, run all rounds, measure, stop."""
        self.out.mkdir(parents=True)
        found(self.out / "server", "plain flower", ["127.0.0.1", "localhost"], datetime.now(UTC))
        shapes, times = self.out / "shapes.json", self.out / "times.jsonl"
        shapes.write_text(json.dumps({n: list(s) for n, s in self.shapes.items()}), "utf-8")
        try:
            with Sampler(self._pids, child=_child) as sampler, WireCount(lambda: self.port) as wire:
                self._start()
                self._launch(shapes, times)
                self._wait(times, timeout_s)
        finally:
            self._stop()
        moments = [json.loads(line)["t"] for line in times.read_text("utf-8").splitlines()]
        servers = ("superlink", "serverapp", "superexec")
        spans = list(itertools.pairwise(moments))
        cost = rounds_of("plain Flower 1.41", sampler, spans, servers=servers)
        cost.count(wire, spans, self.sites)
        return cost

    def _start(self) -> None:
        papers = Papers(self.out / "server")
        self.port, *ports = free_ports(1 + self.sites)
        tls = ["--ssl-certfile", str(papers.server), "--ssl-keyfile", str(papers.server_key)]
        tls += ["--ssl-ca-certfile", str(papers.ca)]
        more = ["--port", str(self.port), "--disable-runtime-dependency-installation"]
        binary = Path(sys.executable).parent
        self._spawn(
            "superlink",
            [str(binary / "flower-superlink"), *tls, *more],
        )
        for number, port in enumerate(ports, 1):
            site = f"site-{number:03d}"
            more = ["--superlink", f"127.0.0.1:{self.port}", "--root-certificates", str(papers.ca)]
            more += ["--isolation", "process", "--port", str(port)]
            self._spawn(f"{site}-supernode", [str(binary / "flower-supernode"), *more])
            runner = [sys.executable, str(HERE / "flower_runner.py"), f"127.0.0.1:{port}"]
            self._spawn(f"{site}-runner", runner, BENCH_SITE=site)

    def _launch(self, shapes: Path, times: Path) -> None:
        """Start the run over the Control API, as ``flwr run`` does."""
        import httpx
        from flwr.cli.build import build_fab_from_files
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.control.control_http_client import ControlHttpClient
        from flwr.supercore.fab import Fab

        fab, _ = build_fab_from_files({"pyproject.toml": PROJECT.encode(), "LICENSE": b"-\n"})
        self.control = ControlHttpClient.from_server_address(
            f"127.0.0.1:{self.port}",
            insecure=False,
            root_certificates=Papers(self.out / "server").ca.read_bytes(),
            interceptors=[],
        )
        settings = {
            "shapes": str(shapes),
            "times": str(times),
            "sites": self.sites,
            "rounds": self.rounds,
        }
        request = StartRunRequest(
            fab=fab_to_proto(Fab("", fab, {})), override_config=user_config_to_proto(settings)
        )
        end = time.monotonic() + 60
        while True:
            try:
                self.run_id, self.looked = self.control.StartRun(request).run_id, time.monotonic()
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
                continue
            break

    def _wait(self, times: Path, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while not times.exists() or len(times.read_text("utf-8").splitlines()) <= self.rounds:
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended; see {self.out / name}.log")
            self._refuse_failed()
            if time.monotonic() > end:
                raise TimeoutError("plain Flower did not finish its rounds")
            time.sleep(0.2)

    def _refuse_failed(self) -> None:
        """Say why the run ended, when it has."""
        from flwr.proto.control_pb2 import ListRunsRequest

        if time.monotonic() - self.looked < 5:
            return
        self.looked = time.monotonic()
        status = (
            self.control.ListRuns(ListRunsRequest(run_id=self.run_id)).run_dict[self.run_id].status
        )
        if status.status == "finished" and status.sub_status != "completed":
            raise RuntimeError(f"plain Flower: {status.sub_status} {status.details}")

    def _spawn(self, name: str, command: list[str], **more: str) -> None:
        env = {
            **os.environ,
            **more,
            "FLWR_HOME": str(self.out / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{HERE}{os.pathsep}{INJECT}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with (self.out / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=env, start_new_session=True
            )

    def _pids(self) -> dict[str, int]:
        return {n: p.pid for n, p in self.running.items() if p.poll() is None}

    def _stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running.values():
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue
            time.sleep(1.0 if number == signal.SIGTERM else 0.0)
        for process in self.running.values():
            process.wait()


def _child(parent: str, line: str) -> str | None:
    if parent != "superlink":
        return None
    return "serverapp" if "flwr-serverapp" in line else "superexec"
