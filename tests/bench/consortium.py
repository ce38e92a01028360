"""A consortium of real processes on loopback, under real mutual TLS, that trains nothing.

The server (``serve``, ``execute`` and the ServerApp that Flower starts), a courier and a runner
per site are the commands of the field. What differs is the recipe (``inject/noise.py``) and the
study, whose manifest is given here instead of being made from a network. A site's working copies
are a few cases of eight voxels, unlabelled, so no evaluation is asked for.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plan import INJECT, Plan, prepare_study, write_cases

from stillroom.common.study import PreparedStudy
from stillroom.deploy.consortium_files import (
    agree,
    found_consortium,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.processes import free_ports
from stillroom.server.store.journal import read_events

SERVER, CLIENT = "stillroom.server.cli", "stillroom.client.cli"


class Consortium:
    """Processes by name: ``link``, ``exec``, ``<site>-courier``, ``<site>-runner``."""

    def __init__(self, plan: Plan, hooks: Mapping[str, Any] | None = None) -> None:
        self.plan, self.layout = plan, plan.layout
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.prefix: dict[str, list[str]] = {}
        self.ports = free_ports(2 + plan.sites)
        self.hooks = {**(hooks or {})}
        self.pids = plan.out / "pids"

    def found(self) -> PreparedStudy:
        """Everything on disk: papers, keys, study, consents, cases, configurations, hooks."""
        plan, layout = self.plan, self.layout
        more = [plan.out / name for name in ("fired", "calls", "trained", "ports", "bodies")]
        for folder in (self.pids, layout.logs, *more):
            folder.mkdir(parents=True)
        prepared = prepare_study(plan)
        found_consortium(layout, plan.names)
        self._write_configs()
        agree(layout, plan.names)
        for name in plan.names:
            write_cases(layout.site(name) / "state", prepared.digest, name)
        turns = self.hooks.pop("turns", 0)
        recipe = {"log": str(plan.out / "trained"), "seconds": plan.seconds, "turns": turns}
        if (training := self.hooks.pop("training", None)) is not None:
            recipe["training"] = training
        self.hooks["noise"] = {**recipe, "samples": plan.cases_of()}
        (plan.out / "hooks.json").write_text(json.dumps(self.hooks), "utf-8")
        return prepared

    def _write_configs(self) -> None:
        inner, edge, *runtimes = self.ports
        write_server_config(self.layout, edge_port=edge, inner_port=inner)
        for name, port in zip(self.plan.names, runtimes, strict=True):
            data = self.layout.site(name) / "data"
            data.mkdir()
            write_site_config(
                self.layout,
                name,
                server_port=edge,
                runtime_port=port,
                data=[data],
                labels={},
                threads=1,
                seed=0,
            )

    @property
    def server_toml(self) -> Path:
        """The operator's configuration."""
        return self.layout.server / "server.toml"

    def commands(self) -> dict[str, list[str]]:
        """Name -> module and arguments."""
        config = ["--config", str(self.server_toml)]
        found = {"link": [SERVER, "serve", *config], "exec": [SERVER, "execute", *config]}
        for name in self.plan.names:
            own = ["--config", str(self.layout.site_config(name))]
            found[f"{name}-courier"] = [CLIENT, "courier", *own]
            found[f"{name}-runner"] = [CLIENT, "runner", *own]
        return found

    def start(self, *names: str) -> None:
        """Start processes; their logs go on where they ended."""
        env = {
            **os.environ,
            "FLWR_HOME": str(self.layout.server / "flower-home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{INJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "STILLROOM_HOOKS": str(self.plan.out / "hooks.json"),
            "STILLROOM_PIDS": str(self.pids),
        }
        for name in names:
            command = [sys.executable, "-P", "-m", *self.commands()[name]]
            with (self.layout.logs / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    [*self.prefix.get(name, ()), *command, "--follow-parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                )

    def start_all(self) -> None:
        """Everything, and the run."""
        names = list(self.commands())
        self.start("link", *(name for name in names if name.endswith("-runner")))
        self.launch()
        self.start("exec", *(name for name in names if name.endswith("-courier")))

    def launch(self) -> None:
        """``stillroom-server run start``, as an operator does once the server answers."""
        folders = [str(self.layout.study), "--out", str(self.layout.run)]
        command = ["run", "start", *folders, "--config", str(self.server_toml)]
        error = ""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self._all_enrolled():
                done = subprocess.run(
                    [*self.prefix.get("link", ()), sys.executable, "-P", "-m", SERVER, *command],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode == 0:
                    return
                error = done.stderr
            time.sleep(0.2)
        raise RuntimeError(f"the run was not started: {error}")

    def resume(self) -> None:
        """``stillroom-server run resume``, as an operator does with a run that is paused."""
        command = ["run", "resume", "1", "--config", str(self.server_toml)]
        subprocess.run(
            [*self.prefix.get("link", ()), sys.executable, "-P", "-m", SERVER, *command],
            capture_output=True,
            check=False,
        )

    def _all_enrolled(self) -> bool:
        """Whether Flower knows every site's key: the server's log says so, one line each."""
        log = self.layout.logs / "link.log"
        return log.exists() and log.read_text("utf-8", "replace").count("Created node_id") >= (
            self.plan.sites
        )

    def pid_of(self) -> dict[str, int]:
        """Name -> pid of what runs now."""
        return {n: p.pid for n, p in self.running.items() if p.poll() is None}

    def events(self) -> list[dict[str, Any]]:
        """What the run has told so far."""
        return [event for _, event in read_events(self.layout.run)]

    def wait(self, timeout_s: float, *, tend: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Until the study has finished; ``tend`` functions are called meanwhile.

        Raises:
            TimeoutError: It did not.
            RuntimeError: A process ended by itself and nobody tends them.
        """
        end, offset, found = time.monotonic() + timeout_s, 0, list[dict[str, Any]]()
        while time.monotonic() < end:
            for behind, event in read_events(self.layout.run, offset=offset):
                offset = behind
                found.append(event)
                if event["event"] == "study.finished":
                    return found
            for function in tend:
                function()
            if not tend:
                self.check()
            time.sleep(0.05)
        raise TimeoutError(f"the study did not finish within {timeout_s:.0f} s")

    def check(self) -> None:
        """Refuse to go on when a process has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                tail = (self.layout.logs / f"{name}.log").read_text("utf-8", "replace")[-2000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def stop(self) -> None:
        """Stop everything that was started, and what it left in its session."""
        for process in reversed(self.running.values()):
            _signal(process.pid, signal.SIGTERM)
        end = time.monotonic() + 10
        for process in reversed(self.running.values()):
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process.pid, signal.SIGKILL)
                process.wait()
        for process in self.running.values():
            _signal(process.pid, signal.SIGKILL)


def child_name(parent: str, line: str) -> str | None:
    """The ServerApp is SuperExec's child."""
    return "app" if parent == "exec" and "flwr-serverapp" in line else None


def _signal(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return
