"""The people of a field: an operator and three hospitals, each with the commands they would type.

What is typed is kept, so that it can be counted. Containers get exactly what the compose files say,
except that their network is a namespace of ours.
"""

import json
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
from typing_extensions import override

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


@dataclass(kw_only=True)
class Machine:
    """One machine: its folder, its containers, what was typed on it.

    Attributes:
        name: Of the host.
        side: ``client`` or ``server``.
        folder: What the compose file mounts from the host.
        settings: For the compose file.
    """

    name: str
    side: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    typed: Typed = field(default_factory=Typed)

    def service(self, which: str) -> dict[str, Any]:
        """A service of the compose file, with this place's settings."""
        given = {**self.settings, "STILLROOM_HOME": str(self.folder)}
        found: dict[str, Any] = services(ROOT / "deploy" / self.side / "compose.yaml", given)[which]
        return found

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

    def begin(self, which: str, *command: str) -> subprocess.Popen[str]:
        """A command in a container of its own, as ``compose run --rm``; both streams in one."""
        self.typed.add("docker", "compose", "run", "--rm", which, *command)
        line, environment = self.line(which, *command)
        return subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def once(self, which: str, *command: str) -> str:
        """The same to its end; what it said."""
        process = self.begin(which, *command)
        said, _ = process.communicate(timeout=600)
        if process.returncode != 0:
            raise RuntimeError(f"{which} {' '.join(command)[:300]}: {said[-1500:]}")
        return said

    def line(self, which: str, *command: str) -> tuple[list[str], dict[str, str]]:
        """The command line of ``begin``, and its environment."""
        raise NotImplementedError

    def volume(self, name: str) -> Path:
        """Where a volume of the compose file lies."""
        raise NotImplementedError

    def inspect(self, which: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        raise NotImplementedError

    def up(self, *which: str) -> None:
        """Start the services, as ``compose up -d``; ones whose settings changed are replaced."""
        raise NotImplementedError

    def ask(self, which: str, *command: str, typed: bool = True) -> str:
        """A command inside a running service; both streams."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Place(Machine):
    """A machine that is a namespace of ours: podman is given what the compose file says.

    Attributes:
        image: The image its containers run.
    """

    image: str
    podman: Podman
    network: Network

    def options(self, which: str) -> list[str]:
        """Options of ``podman run`` for a service."""
        service = self.service(which)
        where = "--network=none"
        if service.get("network_mode") != "none":
            where = self.network.option(self.name)
        return [*run_options(service, f"{self.podman.prefix}-{self.name}"), where]

    @override
    def line(self, which: str, *command: str) -> tuple[list[str], dict[str, str]]:
        run = ["podman", "run", "--rm", *self.options(which), self.image, *command]
        return run, self.podman.environment

    @override
    def volume(self, name: str) -> Path:
        return self.podman.volume(f"{self.name}-{name}")

    @override
    def inspect(self, which: str) -> dict[str, Any]:
        name = f"{self.podman.prefix}-{self.name}-{which}"
        found: dict[str, Any] = json.loads(self.podman.call("inspect", name).stdout)[0]
        return found

    @override
    def up(self, *which: str) -> None:
        self.typed.add("docker", "compose", "up", "-d")
        for one in which:
            self.podman.remove(f"{self.podman.prefix}-{self.name}-{one}")
            command = self.service(one)["command"]
            self.podman.start(f"{self.name}-{one}", self.image, self.options(one), command)

    def down(self, *which: str) -> None:
        """Stop and remove them."""
        for one in which:
            self.podman.remove(f"{self.podman.prefix}-{self.name}-{one}")

    @override
    def ask(self, which: str, *command: str, typed: bool = True) -> str:
        if typed:
            self.typed.add("docker", "compose", "exec", which, *command)
        return self.podman.inside(f"{self.podman.prefix}-{self.name}-{which}", *command)

    def logs(self, which: str) -> str:
        """What a service wrote."""
        done = self.podman.call("logs", f"{self.podman.prefix}-{self.name}-{which}", check=False)
        return done.stdout + done.stderr


def enrol(hospital: Machine, operator: Machine) -> str:
    """Invite, ask, read out, approve; returns what the hospital's terminal showed."""
    toml = ["--config", "/consortium/server.toml"]
    said = operator.ask("serve", "stillroom-server", "site", "invite", hospital.name, *toml)
    words = shlex.split(
        next(line for line in said.splitlines() if "stillroom-client enrol" in line)
    )
    words[words.index("--dir") + 1] = "/stillroom"
    asking = hospital.begin("courier", *words[1:])
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
