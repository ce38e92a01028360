"""The files that hospitals and operators install: hardened as promised, and naming what exists."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from stillroom.client.cli import app as client
from stillroom.server.cli import app as server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMANDS = {"client": get_command(client), "server": get_command(server)}
COMPOSE = {side: DEPLOY / side / "compose.yaml" for side in COMMANDS}
SERVICES: list[tuple[str, str, Any]] = [
    (side, name, service)
    for side, path in COMPOSE.items()
    for name, service in yaml.safe_load(path.read_text("utf-8"))["services"].items()
]
UNITS = sorted(DEPLOY.glob("*/systemd/*.service"))
QUADLETS = sorted(DEPLOY.glob("*/quadlet/*.container"))
CONTAINERFILES = sorted(DEPLOY.glob("*/Containerfile"))


class Unit(ConfigParser):
    """A unit file; keys keep their case, and a repeated one keeps every value."""

    def __init__(self, path: Path) -> None:
        super().__init__(interpolation=None, strict=False)
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self.path = path
        self.read(path, "utf-8")

    def every(self, key: str) -> list[str]:
        """All values of a key, in order."""
        lines = self.path.read_text("utf-8").splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def known(side: str, words: list[str]) -> bool:
    """Whether the side's program has such a command, with its options."""
    command: Any = COMMANDS[side]
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
    if command is None:
        return False
    options = {option for parameter in command.params for option in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))


@pytest.mark.parametrize(("side", "name", "service"), SERVICES, ids=[s[1] for s in SERVICES])
def test_every_service_is_hardened(side: str, name: str, service: Any) -> None:
    """Read-only, no capability, no new privileges, limits, a number for an account: none without."""
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["mem_limit"]
    assert service["restart"] == ("no" if name == "pull" else "unless-stopped")
    user = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["user"])
    assert re.fullmatch(r"1000[1-9]:1000\d", user)
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & service.keys()
    if "command" in service:
        assert known(side, service["command"])
    if "healthcheck" in service:
        program, *words = service["healthcheck"]["test"][1:]
        assert program == f"stillroom-{side}"
        assert known(side, words)


def test_the_courier_has_no_scans_and_the_runner_no_network() -> None:
    """What the two containers are for."""
    both = yaml.safe_load(COMPOSE["client"].read_text("utf-8"))["services"]
    targets = {name: [v.split(":/")[1] for v in both[name]["volumes"]] for name in both}

    assert not [target for target in targets["courier"] if "data" in target or "state" in target]
    assert both["runner"]["network_mode"] == "none"
    assert not {"networks", "ports"} & both["runner"].keys()
    assert "ports" not in both["courier"]
    read_only = [v for v in both["runner"]["volumes"] if v.endswith(":ro")]
    assert {v.split(":")[-2] for v in read_only} == {
        "/stillroom",
        "/data/cardiac-ct",
        "/data/pulled",
    }
    assert both["courier"]["user"] != "10002:10000"


def test_the_gpu_is_asked_for_in_a_file_of_its_own() -> None:
    """A host without one starts the other file alone; the override touches the runner only."""
    text = (DEPLOY / "client" / "compose.gpu.yaml").read_text("utf-8")
    override = yaml.safe_load(text)["services"]

    assert list(override) == ["runner"]
    (device,) = override["runner"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize("path", QUADLETS, ids=lambda path: path.stem)
def test_quadlets_are_as_hardened_as_compose(path: Path) -> None:
    """The same program, account and limits; only the form differs."""
    side, name = path.parts[-3], path.stem.removeprefix("stillroom-")
    unit = Unit(path)
    container = unit["Container"]
    service = next(s for where, which, s in SERVICES if (where, which) == (side, name))

    assert container["ReadOnly"] == "true"
    assert container["DropCapability"] == "all"
    assert container["NoNewPrivileges"] == "true"
    user = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["user"])
    assert f"{container['User']}:{container['Group']}" == user
    assert f"--pids-limit={service['pids_limit']}" in container["PodmanArgs"]
    if "command" in service:
        assert container["Exec"].split() == service["command"]
    if name == "runner":
        assert container["Network"] == "none"
    targets = [volume.split(":")[1] for volume in unit.every("Volume")]
    assert targets == [
        re.sub(r"^.*?:(?=/)", "", v).split(":")[0] for v in service.get("volumes", ())
    ]
    for volume in unit.every("Volume"):
        source = volume.split(":")[0]
        assert source.startswith("/") or (path.parent / source).is_file()


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_are_hardened_and_run_what_exists(path: Path) -> None:
    """For machines without containers; the runner's has no network at all."""
    service = Unit(path)["Service"]
    program, *words = service["ExecStart"].split()

    assert program == f"/opt/stillroom/bin/stillroom-{path.parts[-3]}"
    assert known(path.parts[-3], words)
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] in {"", "CAP_NET_BIND_SERVICE"}
    if path.stem == "stillroom-runner":
        assert service["PrivateNetwork"] == "yes"
        assert service["RestrictAddressFamilies"] == "AF_UNIX"


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """No key that it does not know, no value that it ignores; of one that is wrong it says so."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")

    def said(*units: Path) -> str:
        line = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr + "failed" * (done.returncode != 0)

    copies = []
    for path in UNITS:
        text = path.read_text("utf-8")
        copies.append(tmp_path / path.name)
        # The program is installed nowhere here; everything else is as it is shipped.
        copies[-1].write_text(re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", text), "utf-8")
    wrong = tmp_path / "wrong.service"
    wrong.write_text(copies[0].read_text("utf-8").replace("PrivateTmp=", "PrivateTmpp="), "utf-8")

    assert said(*copies) == ""
    assert "PrivateTmpp" in said(wrong)


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.parent.name)
def test_containerfiles_end_bare(path: Path) -> None:
    """The base is an argument, the last stage begins from nothing and ends as an account by number."""
    text = path.read_text("utf-8")
    last = text[text.rindex("FROM ") :]

    assert re.search(r"^ARG BASE=", text, re.MULTILINE)
    assert last.startswith("FROM scratch")
    assert "RUN" not in last
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert "sbom.cdx.json" in last
    for source in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for name in source.split()[:-1]:
            assert (ROOT / name).exists(), name
    extras = re.search(r"requirements.py /src/pyproject.toml(.*) >/requirements.txt", text)
    assert extras is not None
    assert extras[1].split() == (["client"] if path.parent.name == "client" else [])


def test_the_program_that_lists_is_the_one_that_is_fetched() -> None:
    """Both Containerfiles and the wheelhouse name one release of it."""
    from stillroom.deploy.images import CYCLONEDX

    for path in CONTAINERFILES:
        assert f'ARG CYCLONEDX="{CYCLONEDX}"' in path.read_text("utf-8")


@pytest.mark.parametrize(
    "files",
    [
        ("client/compose.yaml",),
        ("client/compose.yaml", "client/compose.gpu.yaml"),
        ("server/compose.yaml",),
    ],
    ids=["client", "client with a GPU", "server"],
)
def test_compose_v1_accepts_the_files(files: tuple[str, ...]) -> None:
    """Debian's docker-compose, the last of the first kind, reads them as valid."""
    program = shutil.which("docker-compose")
    if program is None:
        assert not os.environ.get("CI"), "docker-compose is missing: see .ci/run"
        pytest.skip("docker-compose is not installed")
    named = [word for file in files for word in ("-f", str(DEPLOY / file))]
    done = subprocess.run(
        [program, *named, "config", "-q"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
