"""Podman with storage and settings of its own, so that nothing of this machine's is touched."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.deploy.images import Engine

STORAGE = """[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""
CONTAINERS = """[containers]
default_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_config_dir = "{folder}/networks"
"""
"""runc, because crun refuses hybrid cgroups; limits, because podman asks for more than it may."""
BASE = "localhost/stillroom-base:bookworm"
TOOLS = {
    "podman": "podman",
    "buildah": "buildah",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "tinyproxy": "tinyproxy-bin",
    "Orthanc": "orthanc",
}


def missing() -> str | None:
    """What to do before this can be tried; None when nothing is missing."""
    if os.geteuid() != 0:
        return "make field needs root: it makes network namespaces and runs containers in them."
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if shutil.which("Orthanc") is None:
        packages.append("orthanc-dicomweb")
    if not packages:
        return None
    return f"apt-get install -y --no-install-recommends {' '.join(packages)}"


@dataclass
class Podman:
    """Containers and volumes whose names begin with ``prefix``.

    Attributes:
        folder: Storage, settings and the base's root file system.
        prefix: Of everything this run makes.
        started: Containers to remove.
    """

    folder: Path
    prefix: str
    started: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("storage.conf", STORAGE), ("containers.conf", CONTAINERS)):
            (self.folder / name).write_text(text.format(folder=self.folder), "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """What makes podman use them; without the proxy of this machine."""
        clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        return {
            **clean,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }

    @property
    def engine(self) -> Engine:
        """For the functions that build and pack images."""
        return Engine("podman", self.environment)

    def base(self) -> str:
        """A Debian with Python and nothing else, made here: no registry is asked."""
        tar = self.folder / "base.tar"
        if self.call("image", "exists", BASE, check=False).returncode == 0:
            return BASE
        if not tar.exists():
            packages = "--include=python3,python3-venv,ca-certificates"
            made = ["mmdebstrap", "-q", "--variant=minbase", packages, "bookworm", str(tar)]
            subprocess.run(made, check=True, capture_output=True)
        self.call("import", "-q", str(tar), BASE)
        return BASE

    def call(
        self, *arguments: str, check: bool = True, timeout: float = 600, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One podman command; its output as text."""
        done = subprocess.run(
            ["podman", *arguments],
            env=self.environment,
            capture_output=True,
            timeout=timeout,
            check=False,
            input=stdin,
        )
        text = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(arguments)[:300]}: {text.stderr[-1500:]}")
        return text

    def start(self, name: str, image: str, options: Sequence[str], command: Sequence[str]) -> str:
        """A container in the background; returns its name."""
        full = f"{self.prefix}-{name}"
        self.started.append(full)
        self.call("run", "-d", f"--name={full}", *options, image, *command)
        return full

    def remove(self, name: str) -> None:
        """Stop a container as its service manager would, and remove it."""
        self.call("stop", "-t", "20", name, check=False)
        self.call("rm", "-f", name, check=False)
        if name in self.started:
            self.started.remove(name)

    def inside(self, name: str, *command: str, user: str | None = None) -> str:
        """A command in a running container; both streams."""
        who = [] if user is None else ["--user", user]
        done = self.call("exec", *who, name, *command, check=False)
        return (done.stdout + done.stderr).strip()

    def volume(self, name: str) -> Path:
        """Where a volume of this run lies."""
        full = f"{self.prefix}-{name}"
        return Path(self.call("volume", "inspect", "-f", "{{.Mountpoint}}", full).stdout.strip())

    def close(self) -> None:
        """Remove this run's containers and volumes, and no others."""
        for name in list(self.started):
            for _ in range(3):  # one that is busy is refused once
                if self.call("rm", "-f", "-t", "5", name, check=False).returncode == 0:
                    break
        names = self.call("volume", "ls", "-q", check=False).stdout.split()
        for name in names:
            if name.startswith(f"{self.prefix}-"):
                self.call("volume", "rm", "-f", name, check=False)
