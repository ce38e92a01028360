"""What happens to a hospital or a server that is upgraded, restored or of another release."""

import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import study as story
from checks import Checks
from counting import miscounted
from places import Machine, Place
from study import SITE, rounds_done, wait

from stillroom.client.ledger import read

DAYS_LATER = "9.0.0"
"""A release that no server here knows anything of."""


@dataclass
class Backup:
    """A hospital's folder and volumes as they lay on the disk at one moment."""

    hospital: Place
    into: Path

    def sources(self) -> dict[str, Path]:
        """What makes up a hospital."""
        place = self.hospital
        names = ("ledger", "exchange", "work")
        return {"home": place.folder, **{name: place.volume(name) for name in names}}

    def take(self) -> None:
        """While its containers stand still, as a night's backup does."""
        for name, source in self.sources().items():
            copy_all(source, self.into / name)

    def restore(self) -> None:
        """Put everything back as it was."""
        for name, source in self.sources().items():
            for path in source.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            copy_all(self.into / name, source)


def copy_all(source: Path, target: Path) -> None:
    """As root, with owners and modes; sockets are nothing to keep."""
    target.mkdir(parents=True, exist_ok=True)
    copy = ["cp", "-a", "--no-preserve=links", f"{source}/.", str(target)]
    subprocess.run(copy, check=False, capture_output=True)


def sent(hospital: Machine) -> list[tuple[str, int, str]]:
    """Stage, round and digest of every update that the hospital's ledger says has left."""
    path = hospital.volume("ledger") / "ledger.jsonl"
    return [
        (line.stage, line.round, line.content)
        for line in read(path)
        if line.kind == "sent" and line.bytes
    ]


def identity(hospital: Machine) -> dict[str, str]:
    """What must not change in an upgrade."""
    names = ("site.key", "signing.key", "site.pem", "consortium.json", "runner.secret")
    return {name: (hospital.folder / name).read_text("utf-8") for name in names}


def upgrade(hospital: Place, operator: Place, image: str, checks: Checks) -> None:
    """Image N to N+1 in the middle of a study: two containers go, two come, nothing else."""
    checks.hold(
        "the study is under way when a hospital is upgraded", story.result(operator), want=None
    )
    before, left, done = identity(hospital), sent(hospital), rounds_done(operator)
    since = time.monotonic()
    hospital.image = image
    hospital.up("courier", "runner")
    wait(lambda: rounds_done(operator) > done, 300)
    took = time.monotonic() - since
    checks.hold(
        f"{hospital.name}: image {image.rpartition(':')[2]} in the middle of the study, next round done",
        rounds_done(operator) > done,
        detail=f"{took:.0f} s after the old containers were told to stop",
    )
    checks.hold(f"{hospital.name}: identity kept", identity(hospital) == before)
    checks.hold(
        f"{hospital.name}: its ledger goes on where it was", sent(hospital)[: len(left)] == left
    )
    edge = json.loads((operator.folder / "state" / "edge" / "edge.json").read_text("utf-8"))
    checks.hold(
        "the operator sees the new release",
        edge["sites"][hospital.name]["version"],
        want=image.rpartition(":")[2],
    )


def restore_site(backup: Backup, operator: Place, checks: Checks) -> None:
    """Yesterday's backup of a hospital, put back while the study goes on."""
    hospital = backup.hospital
    checks.hold(
        "the study is under way when a hospital is restored", story.result(operator), want=None
    )
    before = sent(hospital)
    hospital.down("courier", "runner")
    backup.restore()
    back = len(sent(hospital))
    checks.hold(
        f"{hospital.name}: the backup is older than what has left since",
        back < len(before),
        detail=f"{back} updates on record then, {len(before)} now",
    )
    done = rounds_done(operator)
    hospital.up("courier", "runner")
    wait(lambda: rounds_done(operator) > done or story.result(operator) is not None, 300)
    checks.hold(
        f"{hospital.name}: restored, it takes part in the next round",
        rounds_done(operator) > done,
    )


def counted_once(operator: Place, hospitals: list[Place], checks: Checks) -> None:
    """Every round was closed once and counted every hospital once; the run's events say it."""
    seen = story.events(operator)
    wrong, other = miscounted(seen, story.DUE, [hospital.name for hospital in hospitals])
    rounds = sum(event["event"] == "round.closed" for event in seen)
    checks.hold(
        "every round was counted, and none twice", wrong, want={}, detail=f"{rounds} rounds"
    )
    checks.hold("every round counted every hospital once", other, want={})


def restore_server(operator: Place, hospitals: list[Place], copy: Path, checks: Checks) -> None:
    """An older copy of the whole server is put back: every hospital that remembers more refuses."""
    operator.down("execute", "serve")
    for path in operator.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy_all(copy, operator.folder)
    operator.up("serve", "execute")

    def stopped() -> bool:
        return all("STR-222" in hospital.logs("courier") for hospital in hospitals)

    wait(stopped, 120)
    codes = {h.name: sorted(set(re.findall(r"STR-\d{3}", h.logs("courier")))) for h in hospitals}
    checks.hold(
        "an old copy of the server is refused by every hospital, with STR-222",
        [name for name, seen in codes.items() if "STR-222" not in seen],
        want=[],
    )


def other_release(hospital: Place, scratch: Path, checks: Checks) -> None:
    """A client of another generation is told which release to install, and ends."""
    python = "/opt/stillroom/bin/python"
    find = "import importlib.metadata as m; print(m.distribution('stillroom')._path)"
    where = hospital.ask("runner", python, "-c", find, typed=False).strip()
    text = hospital.ask(
        "runner", python, "-c", f"print(open('{where}/METADATA').read())", typed=False
    )
    fake = scratch / "METADATA"
    fake.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {DAYS_LATER}", text), "utf-8")
    hospital.down("courier")
    options = [*hospital.options("courier"), f"--volume={fake}:{where}/METADATA:ro"]
    since = time.monotonic()
    done = hospital.podman.call(
        "run", "--rm", *options, hospital.image, "courier", *SITE, check=False, timeout=180
    )
    said = done.stdout + done.stderr
    checks.hold(
        f"a client of release {DAYS_LATER} ends with STR-216 and the release to install",
        (done.returncode, "error STR-216" in said, "of the client, the server's own" in said),
        want=(4, True, True),
        detail=f"after {time.monotonic() - since:.0f} s",
    )
    hospital.up("courier")
