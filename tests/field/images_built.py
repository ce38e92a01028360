"""Images from nothing, and what is and is not in them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from checks import Checks
from engine import Podman
from places import ROOT

from stillroom.common.versions import own_version
from stillroom.deploy.images import build, fill_wheelhouse

BARE = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
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


def make(podman: Podman, scratch: Path, checks: Checks) -> dict[str, str]:
    """Build server and client, and the client's next release; returns their names."""
    own, later = str(own_version()), next_release()
    names = {key: f"localhost/stillroom-{key}" for key in ("server", "client")}
    images = {**{key: f"{name}:{own}" for key, name in names.items()}}
    images["next"] = f"localhost/stillroom-client:{later}"
    if all(
        podman.call("image", "exists", name, check=False).returncode == 0
        for name in images.values()
    ):
        checks.note("images of an earlier run")
        return images
    base = podman.base()
    checks.note("a base made from Debian's packages, no registry asked")
    count = fill_wheelhouse(ROOT, ROOT / "deploy" / "wheelhouse")
    checks.note(f"{count} wheels; from here on the build has no network")
    for side in ("server", "client"):
        build(podman.engine, ROOT, side, base=base, version=own)
        checks.note(f"{side} built")
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
    python = "/opt/stillroom/bin/python"
    for side in ("client", "server"):
        image = images[side]
        run = ["run", *BARE, f"--entrypoint={python}", image]
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
