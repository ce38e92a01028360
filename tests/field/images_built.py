"""Images from nothing, as the tarballs that a hospital gets, and what is and is not in them."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from checks import Checks
from engine import Podman
from places import ROOT

from stillroom.common.versions import own_version
from stillroom.deploy.images import SIDES

BARE = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
HARD = [
    *BARE,
    "--tmpfs=/tmp",
    "--security-opt=no-new-privileges",
    "--pids-limit=256",
    "--memory=2g",
]
PYTHON = "/opt/stillroom/bin/python"
RELEASE = "from stillroom.common.versions import own_version; print(own_version())"
LOOK = """
import importlib.util as u, os, shutil, sys
tools = ("apt", "apt-get", "dpkg", "pip", "pip3", "uv", "conda", "perl", "easy_install")
tools = [t for t in tools if shutil.which(t)]
modules = [m for m in ("pip", "ensurepip", "uv") if u.find_spec(m)]
files = (os.path.join(d, f) for d, _, fs in os.walk("/") if not d.startswith(("/proc", "/sys")) for f in fs)
setuid = [f for f in files if os.path.isfile(f) and os.lstat(f).st_mode & 0o6000]
print(tools, modules, setuid, bool(u.find_spec("torch")), os.getuid())
"""


def next_release() -> str:
    """The release after this one, which an image is rebuilt as."""
    own = own_version()
    return f"{own.major}.{own.minor}.{own.micro + 1}"


def tarballs(scratch: Path, prefix: str, checks: Checks) -> Path:
    """The folder that ``make image`` fills, by the same command, with a storage that goes again."""
    out = scratch / "image-out"
    if all((out / name(side)).exists() for side in SIDES):
        checks.note("tarballs of an earlier run")
        return out
    shutil.rmtree(out, ignore_errors=True)
    builder = Podman(scratch / "b", prefix)
    base = builder.base()
    checks.note("a base made from Debian's packages, no registry asked")
    command = ["-m", "stillroom.deploy.images_cli", "--out", str(out), "--base", base]
    made = subprocess.run(
        [sys.executable, "-P", *command],
        env=builder.environment,
        text=True,
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        raise RuntimeError(f"make image: {(made.stdout + made.stderr)[-1500:]}")
    builder.call("system", "reset", "--force")
    sizes = [f"{side} {(out / name(side)).stat().st_size / 1e6:.0f} MB" for side in SIDES]
    checks.note(f"`make image` wrote {', '.join(sizes)}; what built them is gone")
    return out


def name(side: str) -> str:
    """What ``make image`` calls a tarball."""
    return f"stillroom-{side}-{own_version()}.tar"


def unpack(tarball: Path, into: Path, checks: Checks) -> Path:
    """``tar xf`` and ``sha256sum -c``, as the page for hospitals begins; the folder."""
    side = tarball.name.split("-")[1]
    folder = into / f"stillroom-{side}"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["tar", "xf", str(tarball)], cwd=into, check=True)
    told = ["sha256sum", "-c", "SHA256SUMS"]
    summed = subprocess.run(told, cwd=folder, text=True, capture_output=True, check=False)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != told[-1]]
    checks.hold(
        f"{side} tarball: every file in it has its checksum",
        (summed.returncode, summed.stdout.count(": OK")),
        want=(0, len(files)),
        detail=f"{len(files)} files",
    )
    return folder


def load(podman: Podman, scratch: Path, checks: Checks) -> dict[str, str]:
    """Server and client out of their tarballs, and the client's next release; their names."""
    own, later = str(own_version()), next_release()
    images = {side: f"localhost/stillroom-{side}:{own}" for side in SIDES}
    images["next"] = f"localhost/stillroom-client:{later}"
    have = podman.call("images", "-q").stdout.split()
    if have and all(
        podman.call("image", "exists", one, check=False).returncode == 0 for one in images.values()
    ):
        checks.note("images of an earlier run, out of its tarballs")
        return images
    if have:  # of a run that was broken off
        podman.call("rmi", "-a", "-f")
    have = podman.call("images", "-q", "-a").stdout.split()
    checks.hold("the storage that the tarballs are loaded into is empty", have, want=[])
    for side in SIDES:
        folder = unpack(scratch / "image-out" / name(side), scratch, checks)
        since = time.monotonic()
        podman.call("load", "-q", "-i", str(folder / "image.tar"))
        took = time.monotonic() - since
        shutil.rmtree(folder)
        said = podman.call("run", *HARD, images[side], "--help", check=False)
        told = podman.call("run", *HARD, f"--entrypoint={PYTHON}", images[side], "-c", RELEASE)
        checks.hold(
            f"{side} tarball: its image runs hardened and is of this release",
            (said.returncode, f"stillroom-{side}" in said.stdout, told.stdout.strip()),
            want=(0, True, own),
            detail=f"loaded in {took:.0f} s",
        )
    _build_next(podman, scratch / "next", images["client"], images["next"], later)
    checks.note(f"client built once more, as release {later}")
    return images


NEXT = """
FROM {image}
USER 0
COPY site-packages /opt/stillroom/lib/python3.11/site-packages
RUN rm -r /opt/stillroom/lib/python3.11/site-packages/stillroom-{own}.dist-info
LABEL org.opencontainers.image.version="{later}"
USER 10001:10000
"""


def _build_next(podman: Podman, folder: Path, image: str, name: str, later: str) -> None:
    """The client as the next release: this one's image with our own package built anew."""
    shutil.rmtree(folder, ignore_errors=True)
    tree, wheels = folder / "tree", folder / "wheels"
    for part in ("common", "client", "server", "deploy"):
        quiet = shutil.ignore_patterns("__pycache__", "*.whl")
        shutil.copytree(ROOT / part, tree / part, ignore=quiet)
    for part in ("README.md", "LICENSE"):
        shutil.copyfile(ROOT / part, tree / part)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    text = re.sub(r'(?m)^version = ".*"$', f'version = "{later}"', text)
    (tree / "pyproject.toml").write_text(text, "utf-8")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(tree)]
    subprocess.run(pip, check=True, capture_output=True)
    (wheel,) = wheels.glob("stillroom-*.whl")
    shutil.unpack_archive(wheel, folder / "site-packages", "zip")
    containerfile = NEXT.format(image=image, own=own_version(), later=later)
    (folder / "Containerfile").write_text(containerfile, "utf-8")
    podman.call("build", "-q", "--network=none", "-t", name, str(folder), timeout=1200)


def inspect(podman: Podman, images: dict[str, str], checks: Checks) -> None:
    """What scanners and auditors would look for."""
    for side in ("client", "server"):
        image = images[side]
        run = ["run", *BARE, f"--entrypoint={PYTHON}", image]
        uid = "10001" if side == "client" else "10003"
        seen = podman.call(*run, "-c", LOOK).stdout.strip()
        heavy = str(side == "client")
        checks.hold(
            f"{side} image: no package manager, no setuid bit, torch {heavy}, uid {uid}",
            seen,
            want=f"[] [] [] {heavy} {uid}",
        )
        labels = json.loads(podman.call("image", "inspect", image).stdout)[0]["Labels"] or {}
        checks.hold(
            f"{side} image: labels name release and licence",
            (
                labels.get("org.opencontainers.image.version"),
                labels.get("org.opencontainers.image.licenses"),
            ),
            want=(str(own_version()), "Apache-2.0"),
        )
        show = "print(open('/usr/share/stillroom/sbom.cdx.json').read())"
        bom = json.loads(podman.call(*run, "-c", show).stdout)
        purls = [part.get("purl", "") for part in bom["components"]]
        kinds = {kind: sum(p.startswith(f"pkg:{kind}/") for p in purls) for kind in ("pypi", "deb")}
        checks.hold(
            f"{side} image: SBOM is CycloneDX and names flwr and libc6",
            (
                bom["bomFormat"],
                any(p.startswith("pkg:pypi/flwr@") for p in purls),
                any(p.startswith("pkg:deb/debian/libc6@") for p in purls),
            ),
            want=("CycloneDX", True, True),
            detail=f"{kinds['pypi']} Python distributions, {kinds['deb']} Debian packages",
        )
    size = json.loads(podman.call("image", "inspect", images["client"]).stdout)[0]["Size"]
    small = json.loads(podman.call("image", "inspect", images["server"]).stdout)[0]["Size"]
    checks.note(f"sizes: client {size / 1e6:.0f} MB, server {small / 1e6:.0f} MB")
