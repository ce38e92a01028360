"""Images of client and server, and a tarball that installs them where there is no network.

::

    stillroom-client-0.1.0.tar
      stillroom-client/image.tar        podman load -i, or docker load -i
                       compose.yaml ... quadlet/ systemd/ site.example.toml
                       SHA256SUMS

Wheels are fetched before the build, which then has no network: what was built is what was fetched.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.common.errors import ConfigError, ResourceError
from stillroom.common.versions import own_version

SIDES = ("client", "server")
CYCLONEDX = "cyclonedx-bom==7.5.0"
"""Lists what is in an image; as both Containerfiles say."""
BUILDER = "hatchling>=1.27"
DEFAULT_BASE = "docker.io/library/python:3.11-slim-bookworm"


@dataclass(frozen=True, slots=True)
class Engine:
    """The command that builds.

    Attributes:
        command: ``podman`` or ``docker``.
        environment: Of its process; None is ours.
    """

    command: str = "podman"
    environment: Mapping[str, str] | None = field(default=None)

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """One command; what it printed.

        Raises:
            ResourceError: STR-502, it failed; its last words.
            ConfigError: STR-100, there is no such command.
        """
        if shutil.which(self.command) is None:
            raise ConfigError(
                f"{self.command} is not installed.",
                fix="Install podman and buildah, or name another engine with --engine.",
            )
        done = subprocess.run(  # noqa: S603  # our own command line
            [self.command, *arguments],
            cwd=cwd,
            env=None if self.environment is None else dict(self.environment),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            last = " ".join(done.stderr.split())[-600:]
            raise ResourceError(
                f"{self.command} {arguments[0]} failed: {last}",
                fix="Run it by hand as shown in docs/hospital-it/containers.md.",
                code="STR-502",
            )
        return done.stdout


def fill_wheelhouse(root: Path, folder: Path) -> int:
    """Fetch every wheel both images need; returns how many there are.

    The torch that is fetched is the one ``make install`` takes here: a local wheel, else the
    index's, which is built for CUDA.

    Raises:
        ResourceError: STR-502, pip failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = (root / "constraints.txt").read_text("utf-8").splitlines()
    torch = next(line for line in pins if line.startswith("torch=="))
    pip = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder)]
    pinned = ["--find-links", str(folder), "-c", str(root / "constraints.txt")]
    if not list(folder.glob("torch-*.whl")):
        local = subprocess.run(  # noqa: S603  # our own command line
            [*pip, "--no-index", "--no-deps", torch], capture_output=True, check=False
        )
        if local.returncode != 0:
            _pip([*pip, "--no-deps", torch])
    _pip([*pip, *pinned, BUILDER, CYCLONEDX, f"{root}[client]"])
    for own in folder.glob("stillroom-*"):
        own.unlink()  # built from the sources, in the image
    return len(list(folder.glob("*.whl")))


def _pip(command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603  # our own command line
        command, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise ResourceError(
            f"pip could not fetch the wheels: {' '.join(done.stderr.split())[-400:]}",
            fix="Check the connection to the package index, or fill deploy/wheelhouse by hand.",
            code="STR-502",
        )


def build(
    engine: Engine, root: Path, side: str, *, base: str, version: str, revision: str = "unknown"
) -> str:
    """Build one image without a network; returns its name."""
    name = f"localhost/stillroom-{side}:{version}"
    said = {"BASE": base, "VERSION": version, "REVISION": revision}
    arguments = [part for pair in said.items() for part in ("--build-arg", "=".join(pair))]
    if list((root / "deploy" / "wheelhouse").glob("*.whl")):
        arguments.append("--network=none")
    where = f"deploy/{side}/Containerfile"
    if engine.command == "podman":
        arguments.append(
            "--layers=false"
        )  # one copy of torch on its way to the last stage, not two
    engine.run("build", "-q", *arguments, "-f", where, "-t", name, ".", cwd=root)
    return name


def pack(engine: Engine, root: Path, side: str, image: str, out: Path) -> Path:
    """Image, compose file, units, example and checksums as one tarball; returns its path."""
    version = image.rpartition(":")[2]
    folder = out / f"stillroom-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "deploy" / side, folder)
    engine.run("save", "-q", "-o", str(folder / "image.tar"), image)
    sums = [
        f"{_sha256(path)}  {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (folder / "SHA256SUMS").write_text("".join(sums), "utf-8")
    made = out / f"stillroom-{side}-{version}.tar"
    with tarfile.open(made, "w") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    return made


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def release() -> str:
    """The version that images are tagged with."""
    return str(own_version())
