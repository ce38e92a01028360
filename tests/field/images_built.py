"""Images from nothing, and what is and is not in them."""

import json
import re
import shutil
from pathlib import Path

from checks import Checks
from engine import Podman
from places import ROOT

from stillroom.common.versions import own_version
from stillroom.deploy.images import build, copy_sources, fill_wheelhouse

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
    tree = scratch / "next"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    copy_sources(ROOT, tree)
    pyproject = tree / "pyproject.toml"
    text = re.sub(r'(?m)^version = ".*"$', f'version = "{later}"', pyproject.read_text("utf-8"))
    pyproject.write_text(text, "utf-8")
    build(podman.engine, tree, "client", base=base, version=later)
    checks.note(f"client built once more, as release {later}")
    return images


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
