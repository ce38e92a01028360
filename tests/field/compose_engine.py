"""The pages for containers, walked with Compose and Docker's engine: a server, a hospital, a small study.

    python -P tests/field/compose_engine.py --scratch FOLDER

FOLDER holds ``image-out`` as ``make field`` or ``make image`` writes it. Server and hospital are two
Compose projects of one engine, which has a network namespace of its own: the hospital's courier reaches
the server at a published port, as it would over a wire.
"""

import argparse
import copy
import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import docker_engine  # noqa: E402  # these lie beside this file
import images_built  # noqa: E402
import isolation  # noqa: E402
import study as story  # noqa: E402
from changes import identity, sent  # noqa: E402
from checks import Checks, safely  # noqa: E402
from places import Machine  # noqa: E402
from study import SITE, wait  # noqa: E402
from typing_extensions import override  # noqa: E402

from stillroom.common.versions import own_version  # noqa: E402

STUDY: dict[str, Any] = copy.deepcopy(story.STUDY)
STUDY["study"]["quorum"]["min_sites"] = 1
HEALTHY_S = 240
"""The health command is asked once a minute; a machine with other work needs a second try."""


@dataclass(kw_only=True)
class Composed(Machine):
    """A machine where a person types Compose, in the folder that came out of the tarball."""

    docker: docker_engine.Docker
    files: Path

    def settle(self) -> None:
        """The settings, in the file beside ``compose.yaml`` that the page names."""
        given = {**self.settings, "STILLROOM_HOME": str(self.folder)}
        lines = "".join(f"{key}={value}\n" for key, value in given.items())
        (self.files / ".env").write_text(lines, "utf-8")

    def type(self, *words: str) -> str:
        """A Compose command; both streams."""
        self.typed.add("docker", "compose", *words)
        done = self.docker.compose(self.files, *words)
        return done.stdout + done.stderr

    @override
    def line(self, which: str, *command: str) -> tuple[list[str], dict[str, str]]:
        stand = ["env", "-C", str(self.files)]
        run = [*stand, "docker-compose", "run", "--rm", "-T", which, *command]
        return run, self.docker.environment

    @override
    def volume(self, name: str) -> Path:
        full = f"{self.files.name}_{name}"
        shown = self.docker.call("volume", "inspect", "-f", "{{.Mountpoint}}", full)
        return Path(shown.stdout.strip())

    @override
    def inspect(self, which: str) -> dict[str, Any]:
        name = self.docker.compose(self.files, "ps", "-q", which, check=False).stdout.strip()
        return self.docker.inspect(name) if name else {}

    @override
    def up(self, *which: str) -> None:
        self.type("up", "-d")

    @override
    def ask(self, which: str, *command: str, typed: bool = True) -> str:
        if typed:
            self.typed.add("docker", "compose", "exec", which, *command)
        done = self.docker.compose(self.files, "exec", "-T", which, *command, check=False)
        return (done.stdout + done.stderr).strip()

    def health(self, which: str) -> str:
        """As ``docker compose ps`` shows it."""
        state = self.inspect(which).get("State", {})
        found: str = state.get("Health", {}).get("Status", state.get("Status", "not there"))
        return found


def play(scratch: Path, prefix: str, stack: ExitStack, checks: Checks) -> None:
    """Everything, in order."""
    docker = docker_engine.Docker(scratch / "d", f"{prefix}-dk")
    shutil.rmtree(scratch / "compose", ignore_errors=True)
    here = scratch / "compose"
    here.mkdir()
    stack.callback(docker.close)
    docker.start()
    files = {}
    for side in ("server", "client"):
        files[side] = images_built.unpack(
            scratch / "image-out" / images_built.name(side), here, checks
        )
        said = docker.call("load", "-i", str(files[side] / "image.tar")).stdout
        (files[side] / "image.tar").unlink()
        name = f"localhost/stillroom-{side}:{own_version()}"
        checks.hold(f"Docker's engine loads the {side}'s image by its name", name in said)
    (site,) = story.patients(here, story.SPECS[:1]).values()
    operator = Composed(
        name="srv", side="server", folder=here / "srv", docker=docker, files=files["server"]
    )
    hospital = Composed(
        name="north",
        side="client",
        folder=here / "north",
        docker=docker,
        files=files["client"],
        settings={"STILLROOM_DATA": str(site.folder), "STILLROOM_RUNNER_MEMORY": "4g"},
    )
    for machine in (operator, hospital):
        machine.settle()
    study = story.found(operator, here, STUDY)
    checks.hold("server: three containers are up", running(operator, "net", "serve", "execute"))
    shown = story.join(hospital, operator, study, site, None)
    checks.hold("hospital: enrolled through Compose's network", "enrolled as" in shown)
    checks.hold("hospital: pull is not started by `up`", hospital.health("pull"), want="not there")
    for machine, which in ((operator, "serve"), (hospital, "courier"), (hospital, "runner")):
        wait(lambda m=machine, w=which: m.health(w) == "healthy", HEALTHY_S)
        checks.hold(
            f"{machine.name} {which}: Compose says healthy", machine.health(which), want="healthy"
        )
    other_account(docker, checks)
    isolation.hardened(hospital, checks)
    isolation.runner_alone(hospital, checks)
    checks.hold("hospital: no port is published", published(hospital, "courier", "runner"), want=[])
    story.begin(operator)
    wait(lambda: story.rounds_done(operator) > 1)
    checks.hold("rounds are committed", story.rounds_done(operator) > 1)
    checks.part("kept", lambda: kept(hospital, operator, checks))
    checks.part("removed", lambda: removed(hospital, checks))


def other_account(docker: docker_engine.Docker, checks: Checks) -> None:
    """The page lets a hospital change the runner's number; its working copies must still be writable."""
    who = ["--user=12345:10000", "--volume=another:/stillroom/state", "--network=none"]
    image = f"localhost/stillroom-client:{own_version()}"
    write = "open('/stillroom/state/x', 'x').write('x')"
    run = ["run", "--rm", *who, f"--entrypoint={isolation.PYTHON}", image, "-c", write]
    checks.hold(
        "hospital: a runner of another number may write working copies",
        docker.call(*run, check=False).returncode,
        want=0,
    )


def running(machine: Composed, *which: str) -> bool:
    """Whether the services' containers run."""
    return all(machine.inspect(one).get("State", {}).get("Running") for one in which)


def published(machine: Composed, *which: str) -> list[str]:
    """Ports of the host that lead to the services' containers."""
    return [
        port for one in which for port in machine.inspect(one)["NetworkSettings"]["Ports"] or ()
    ]


def kept(hospital: Composed, operator: Composed, checks: Checks) -> None:
    """What a person does to running containers loses nothing, and the study goes on each time."""
    before = identity(hospital)
    renamed = f"localhost/stillroom-client:{images_built.next_release()}"
    hospital.docker.call("tag", f"localhost/stillroom-client:{own_version()}", renamed)

    def upgraded() -> None:
        hospital.settings["STILLROOM_IMAGE"] = renamed
        hospital.settle()
        hospital.up()

    def anew(machine: Composed) -> None:
        machine.type("down")
        machine.up()

    for what, act in {
        "hospital: `restart`": lambda: hospital.type("restart"),
        "hospital: `down` and `up`": lambda: anew(hospital),
        "hospital: another STILLROOM_IMAGE in .env and `up`": upgraded,
        "server: `restart serve`": lambda: operator.type("restart", "serve"),
        "server: `restart execute`": lambda: operator.type("restart", "execute"),
        "server: `down` and `up`": lambda: anew(operator),
    }.items():
        left = sent(hospital)
        act()
        done = story.rounds_done(operator)
        wait(lambda done=done: story.rounds_done(operator) > done, 300)
        now = sent(hospital)
        checks.hold(
            f"{what}: identity and ledger kept, the next round is committed",
            (
                identity(hospital) == before,
                now[: len(left)] == left,
                story.rounds_done(operator) > done,
            ),
            want=(True, True, True),
            detail=f"{len(now)} updates on record",
        )
    images = {hospital.inspect(which)["Config"]["Image"] for which in ("courier", "runner")}
    checks.hold("hospital: both containers run the other image", images, want={renamed})


def removed(hospital: Composed, checks: Checks) -> None:
    """As the page ends: what could show a patient goes, what shows what left stays."""
    hospital.once("courier", "consent", "withdraw", *SITE, "--yes")
    hospital.type("down")
    left = sent(hospital)
    hospital.docker.call("volume", "rm", "stillroom-client_work", "stillroom-client_exchange")
    names = hospital.docker.call("volume", "ls", "-q").stdout.split()
    checks.hold(
        "hospital removed: working copies are gone, the ledger is there",
        ("stillroom-client_work" in names, "stillroom-client_ledger" in names, bool(left)),
        want=(False, True, True),
    )


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit status 0 only when every check held."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scratch", type=Path, required=True, help="holds image-out")
    scratch = arguments.parse_args().scratch.resolve()
    todo = docker_engine.missing()
    if todo is not None:
        sys.stderr.write(f"Compose cannot be tried here. {todo}\n")
        return 2
    checks = Checks(say=say, name="compose")
    safely(partial(play, scratch, f"strf{os.getpid() % 10000}"), checks)
    say(checks.summary())
    return 0 if checks.passed == len(checks.lines) else 1


if __name__ == "__main__":
    sys.exit(main())
