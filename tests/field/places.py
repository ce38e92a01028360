"""The people of a field: an operator and three hospitals, each with the commands they would type.

What is typed is kept, so that it can be counted. Containers get exactly what the compose files say,
except that their network is a namespace of ours.
"""

import os
import re
import shlex
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose import run_options, services
from engine import Podman
from net import PROXY, Network

ROOT = Path(__file__).parents[2]
DIGITS = re.compile(r"\b[0-9a-f]{4}(?: [0-9a-f]{4}){3}\b")
OWNERS = {"client": (10001, 10000), "server": (10003, 10003)}


@dataclass
class Typed:
    """What one person typed, as it would stand in a terminal with Compose."""

    lines: list[str] = field(default_factory=list)

    def add(self, *words: str) -> None:
        """One command."""
        self.lines.append(shlex.join(words))


@dataclass
class Place:
    """One machine: its folder, its containers, what was typed on it.

    Attributes:
        name: Of the host.
        side: ``client`` or ``server``.
        folder: What the compose file mounts from the host.
        image: The image its containers run.
        settings: For the compose file.
    """

    name: str
    side: str
    folder: Path
    image: str
    podman: Podman
    network: Network
    settings: dict[str, str] = field(default_factory=dict)
    typed: Typed = field(default_factory=Typed)

    def service(self, which: str) -> dict[str, Any]:
        """A service of the compose file, with this place's settings."""
        given = {**self.settings, "STILLROOM_HOME": str(self.folder)}
        found: dict[str, Any] = services(ROOT / "deploy" / self.side / "compose.yaml", given)[which]
        return found

    def options(self, which: str) -> list[str]:
        """Options of ``podman run`` for a service."""
        service = self.service(which)
        where = "--network=none"
        if service.get("network_mode") != "none":
            where = self.network.option(self.name)
        return [*run_options(service, f"{self.podman.prefix}-{self.name}"), where]

    def make_folder(self, *below: str) -> None:
        """The one folder a person makes: owned by the container's account."""
        uid, gid = OWNERS[self.side]
        mode = 0o2750 if self.side == "client" else 0o700
        for path in (self.folder, *(self.folder / name for name in below)):
            path.mkdir()
            os.chown(path, uid, gid)
            path.chmod(mode)
        names = [str(self.folder), *(str(self.folder / name) for name in below)]
        owner = ["-o", str(uid), "-g", str(gid), "-m", oct(mode)[2:]]
        self.typed.add("install", "-d", *owner, *names)

    def once(self, which: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in a container of its own, as ``compose run --rm``."""
        self.typed.add("docker", "compose", "run", "--rm", which, *command)
        return self.podman.call("run", "--rm", *self.options(which), self.image, *command)

    def up(self, *which: str) -> None:
        """Start the services, as ``compose up -d``; ones that run are replaced."""
        self.typed.add("docker", "compose", "up", "-d")
        for one in which:
            self.podman.remove(f"{self.podman.prefix}-{self.name}-{one}")
            command = self.service(one)["command"]
            self.podman.start(f"{self.name}-{one}", self.image, self.options(one), command)

    def down(self, *which: str) -> None:
        """Stop and remove them."""
        for one in which:
            self.podman.remove(f"{self.podman.prefix}-{self.name}-{one}")

    def ask(self, which: str, *command: str, typed: bool = True) -> str:
        """A command inside a running service; both streams."""
        if typed:
            self.typed.add("docker", "compose", "exec", which, *command)
        return self.podman.inside(f"{self.podman.prefix}-{self.name}-{which}", *command)

    def logs(self, which: str) -> str:
        """What a service wrote."""
        done = self.podman.call("logs", f"{self.podman.prefix}-{self.name}-{which}", check=False)
        return done.stdout + done.stderr


def enrol(hospital: Place, operator: Place) -> str:
    """Invite, ask, read out, approve; returns what the hospital's terminal showed."""
    toml = ["--config", "/consortium/server.toml"]
    said = operator.ask("serve", "stillroom-server", "site", "invite", hospital.name, *toml)
    words = shlex.split(
        next(line for line in said.splitlines() if "stillroom-client enrol" in line)
    )
    words[words.index("--dir") + 1] = "/stillroom"
    command = words[1:]
    hospital.typed.add("docker", "compose", "run", "--rm", "courier", *command)
    asking = subprocess.Popen(
        ["podman", "run", "--rm", *hospital.options("courier"), hospital.image, *command],
        env=hospital.podman.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shown: list[str] = []
    timer = threading.Timer(180, asking.kill)
    timer.start()
    try:
        for line in asking.stdout or ():
            shown.append(line)
            if digits := DIGITS.search(line):
                approve = ["stillroom-server", "site", "approve", hospital.name, *toml]
                operator.ask("serve", *approve, "--fingerprint", digits[0])
        asking.wait(30)
    finally:
        timer.cancel()
        asking.kill()
    return "".join(shown)


def tinyproxy(network: Network, folder: Path, user: str, password: str) -> subprocess.Popen[bytes]:
    """A CONNECT proxy with a user and a password, for the server's two ports only."""
    settings = folder / "tinyproxy.conf"
    settings.write_text(
        f"Port 8888\nListen {PROXY}\nTimeout 600\nAllow 10.77.0.0/16\nConnectPort 443\n"
        f"ConnectPort 8443\nBasicAuth {user} {password}\nLogLevel Error\n"
    )
    return subprocess.Popen(
        network.command("proxy", ["tinyproxy", "-d", "-c", str(settings)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
