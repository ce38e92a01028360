"""Docker's engine and Compose in a network namespace of their own: nothing of this machine's is touched.

The engine's bridges, its firewall and its port forwarding are made in that namespace and go with it.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from net import SERVER

TOOLS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "ip": "iproute2"}
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian's: another docker may come first in this machine's own."""
LIMITS = ("nofile=16384:16384", "nproc=8192:8192")
"""Root here may lack CAP_SYS_RESOURCE; the engine would ask for more than it has."""


def missing() -> str | None:
    """What to install before this can be tried; None when nothing is missing."""
    if os.geteuid() != 0:
        return "Docker's engine needs root."
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool, path=PATH) is None]
    if not packages:
        return None
    return f"apt-get install -y --no-install-recommends {' '.join(packages)}"


@dataclass
class Docker:
    """One engine.

    Attributes:
        folder: Its storage, its socket and its log.
        namespace: Of its network; its own address is ``SERVER``.
        processes: The engine, once it was started.
    """

    folder: Path
    namespace: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What makes docker and Compose speak to it; without the proxy or settings of this machine."""
        clean = {
            key: value
            for key, value in os.environ.items()
            if "proxy" not in key.lower() and not key.startswith(("DOCKER_", "STILLROOM_"))
        }
        home = {"DOCKER_CONFIG": str(self.folder / "config"), "PATH": PATH}
        return {**clean, **home, "DOCKER_HOST": f"unix://{self.folder}/sock"}

    def start(self) -> None:
        """Until it answers.

        Raises:
            RuntimeError: It ended, or did not answer; its last words.
        """
        self._remove()
        self.folder.mkdir(parents=True)
        (self.folder / "daemon.json").write_text("{}\n", "utf-8")
        self._ip("netns", "add", self.namespace)
        self._ip("-n", self.namespace, "link", "set", "lo", "up")
        self._ip("-n", self.namespace, "addr", "add", f"{SERVER}/32", "dev", "lo")
        options = {
            "config-file": "daemon.json",
            "data-root": "data",
            "exec-root": "exec",
            "pidfile": "pid",
        }
        words = [f"--{name}={self.folder / path}" for name, path in options.items()]
        words += [f"--host=unix://{self.folder}/sock", "--storage-driver=overlay2"]
        words += [f"--default-ulimit={limit}" for limit in LIMITS]
        # Not `ip netns exec`: that mounts a /sys of its own, without the control groups.
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        with (self.folder / "log").open("wb") as log:
            engine = subprocess.Popen(
                [*enter, "dockerd", *words],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(engine)
        end = time.monotonic() + 120
        while self.call("version", check=False).returncode != 0:
            if engine.poll() is not None or time.monotonic() > end:
                log_text = (self.folder / "log").read_text("utf-8", "replace")
                raise RuntimeError(f"dockerd does not answer: {log_text[-800:]}")
            time.sleep(0.5)

    def call(
        self, *arguments: str, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """One docker command."""
        return self._run(["docker", *arguments], None, check, timeout)

    def compose(
        self, folder: Path, *arguments: str, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """One Compose command, in the folder with the compose file, as a person stands there."""
        return self._run(["docker-compose", *arguments], folder, check, timeout)

    def _run(
        self, line: list[str], cwd: Path | None, check: bool, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            line,
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr)[-1500:]
            raise RuntimeError(f"{' '.join(line)[:300]}: {said}")
        return done

    def containers(self) -> list[str]:
        """Every container there is, running or not; all are ours."""
        return self.call("ps", "-aq", check=False).stdout.split()

    def close(self) -> None:
        """Containers, the engine, its namespace, its storage."""
        for engine in self.processes:
            if engine.poll() is None:
                if left := self.containers():
                    self.call("rm", "-f", "-v", *left, check=False)
                engine.send_signal(signal.SIGTERM)
                try:
                    engine.wait(60)
                except subprocess.TimeoutExpired:
                    engine.kill()
                    engine.wait()
        subprocess.run(
            ["ip", "netns", "del", self.namespace], check=False, capture_output=True, timeout=60
        )
        self._remove()

    def _remove(self) -> None:
        mounts = Path("/proc/self/mounts").read_text("utf-8").splitlines()
        ours = [words[1] for line in mounts if (words := line.split()) and self._owns(words[1])]
        for mount in sorted(ours, reverse=True):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _owns(self, mount: str) -> bool:
        return mount.startswith(f"{self.folder}/")

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        found: dict[str, Any] = json.loads(self.call("inspect", name).stdout)[0]
        return found

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
