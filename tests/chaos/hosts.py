"""A server and sites as network namespaces, with a bad line from each site to the server.

Nothing is made in the machine's own namespace. Needs root, ``ip`` and /dev/net/tun.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


def missing() -> str | None:
    """Why this machine cannot play; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed"
    if not Path("/dev/net/tun").exists():
        return "this machine has no /dev/net/tun"
    name = f"try{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if tried.returncode:
        return "this kernel or container allows no network namespaces"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None


@dataclass
class Hosts:
    """Namespaces ``<prefix>-srv`` and ``<prefix>-01`` to ``-NN``.

    Attributes:
        out: For the lines' logs and counts.
        sites: How many.
    """

    out: Path
    sites: int
    prefix: str = field(default_factory=lambda: f"sl{os.getpid() % 100000}")
    lines: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, number: int) -> list[str]:
        """What runs a command at a site; 0 is the server."""
        host = f"{number:02d}" if number else "srv"
        return ["ip", "netns", "exec", f"{self.prefix}-{host}"]

    @staticmethod
    def server_address(number: int) -> str:
        """Where a site finds the server: at its own end of its own line."""
        return f"10.78.{number}.1"

    def up(self, *settings: str) -> None:
        """Make the namespaces and the lines, with the settings of ``line.py``."""
        hosts = ["srv", *(f"{n:02d}" for n in range(1, self.sites + 1))]
        for host in hosts:
            self._ip("netns", "add", f"{self.prefix}-{host}")
            self._ip("-n", f"{self.prefix}-{host}", "link", "set", "lo", "up")
        for number in range(1, self.sites + 1):
            with (self.out / f"line{number}.log").open("wb") as log:
                ends = [f"{self.prefix}-srv", f"{self.server_address(number)}/30"]
                ends += [f"{self.prefix}-{number:02d}", f"10.78.{number}.2/30"]
                command = [sys.executable, str(HERE / "line.py"), *ends, str(self._stats(number))]
                more = [*settings, "--seed", str(number)]
                self.lines.append(subprocess.Popen([*command, *more], stdout=log, stderr=log))
        end = time.monotonic() + 20
        while not all(self._stats(n).exists() for n in range(1, self.sites + 1)):
            if time.monotonic() > end:
                raise RuntimeError(f"the lines did not come up, see {self.out}")
            time.sleep(0.05)

    def cut(self, number: int, *, on: bool) -> None:
        """Cut a site's line, or mend it."""
        self.lines[number - 1].send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)

    def crossed(self, number: int, ports: set[int]) -> tuple[int, int]:
        """Payload bytes that these ports of a site put on its line, both ways: all, and once each.

        Once each means without what TCP repeated within a connection; a byte of a file that a
        later connection carries once more is in both.
        """
        time.sleep(0.3)
        flows = json.loads(self._stats(number).read_text("utf-8"))
        counts = [count for port, count in flows.items() if int(port) in ports]
        return sum(sum(count[:2]) for count in counts), sum(sum(count[2:]) for count in counts)

    def down(self) -> None:
        """End the lines and remove every namespace, whether ``up`` was finished or not."""
        for line in self.lines:
            line.terminate()
            line.wait()
        for host in ("srv", *(f"{n:02d}" for n in range(1, self.sites + 1))):
            subprocess.run(
                ["ip", "netns", "del", f"{self.prefix}-{host}"], check=False, capture_output=True
            )

    def _stats(self, number: int) -> Path:
        return self.out / f"line{number}.json"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
