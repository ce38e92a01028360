"""Real processes on one machine: started, watched, and all stopped again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.common.errors import ResourceError
from stillroom.common.lifetime import signals_deferred

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""


@dataclass(slots=True)
class Processes:
    """The processes of a rehearsal, each with its log in ``logs``.

    Each is the leader of its own session, so that a Ctrl-C in the terminal reaches the rehearsal
    alone, which then stops them in order; and each is started with ``--follow-parent``, so that
    none outlives a rehearsal that was killed.
    """

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, module: str, arguments: Sequence[str], *, env: Mapping[str, str]
    ) -> None:
        """Start ``python -P -m module arguments``, logging to ``<name>.log``.

        ``-P`` keeps the working directory off the import path: nothing lying there can stand in
        for an installed module.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        # An interruption between the fork and our noting it would leave a process nobody stops.
        with signals_deferred(), (self.logs / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603  # our own interpreter and modules
                [
                    sys.executable,
                    "-P",
                    "-m",
                    module,
                    *arguments,
                    "--follow-parent",
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def check(self) -> None:
        """Refuse to go on when a process has ended by itself.

        Raises:
            ResourceError: STR-502, with the end of its log.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                raise ResourceError(
                    f"{name} ended early with status {process.returncode}.{self.tail(name)}",
                    fix=f"Read {self.logs / f'{name}.log'}.",
                    code="STR-502",
                )

    def tail(self, name: str, lines: int = 4) -> str:
        """The last lines of a process's log, to be shown on this machine only."""
        text = (self.logs / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
        return "".join(f"\n  | {line[:200]}" for line in text[-lines:])

    def wait_for_port(self, name: str, port: int, *, timeout_s: float = 60.0) -> None:
        """Wait until ``name`` listens on a loopback port.

        Raises:
            ResourceError: STR-502 when it ends or takes too long.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.check()
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise ResourceError(
            f"{name} did not open port {port} within {timeout_s:.0f} s.{self.tail(name)}",
            fix=f"Read {self.logs / f'{name}.log'}.",
            code="STR-502",
        )

    def stop(self) -> None:
        """Stop all, last started first; whoever does not obey SIGTERM is killed."""
        for process in reversed(self.running.values()):
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        for process in reversed(self.running.values()):
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        for process in self.running.values():
            # What a process left behind in its session (a ServerApp, say) goes with it.
            _signal(process, signal.SIGKILL)
        self.running.clear()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses at this moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
