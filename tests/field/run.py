"""``make field``: images from nothing, three hospitals in containers, one study over them to its release.

    python -P tests/field/run.py [--scratch FOLDER] [--keep] [--compose]

Needs root and the tools it names. Everything it makes (namespaces, containers, volumes, processes) is
its own and goes at the end, also after Ctrl-C; with ``--keep`` images and logs stay in FOLDER, and a
second run with the same FOLDER does not build again.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import changes  # noqa: E402  # these lie beside this file
import compose_engine  # noqa: E402
import docker_engine  # noqa: E402
import engine  # noqa: E402
import images_built  # noqa: E402
import isolation  # noqa: E402
import pacs  # noqa: E402
import page  # noqa: E402
import study as story  # noqa: E402
from checks import Checks, safely  # noqa: E402
from net import PROXY, SERVER, Network  # noqa: E402
from places import ROOT, Place, tinyproxy  # noqa: E402

from stillroom.deploy.phantom.consortium import Site  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "field.md"
LEFT = ("scans", "study", "release", "yesterday", "server-yesterday", "compose")
"""What an earlier run with the same scratch folder left; its images are used again."""
USER, PASSWORD = "hospital", "sesame"
"""Of a proxy that lives for minutes."""


def play(scratch: Path, stack: ExitStack, checks: Checks) -> page.Costs:
    """Everything, in order."""
    # 1. Images.
    prefix = f"strf{os.getpid() % 10000}"
    podman = engine.Podman(scratch / "p", prefix)
    since = time.monotonic()
    images_built.tarballs(scratch, prefix, checks)
    built = time.monotonic() - since
    images = images_built.load(podman, scratch, checks)
    images_built.inspect(podman, images, checks)
    # 2. Hosts.
    network = Network(prefix)
    stack.callback(network.down)
    stack.callback(podman.close)
    network.up()
    for name in LEFT:
        shutil.rmtree(scratch / name, ignore_errors=True)
    sites = story.patients(scratch)
    operator = Place(
        name="srv",
        side="server",
        folder=scratch / "place-srv",
        image=images["server"],
        podman=podman,
        network=network,
    )
    hospitals = [
        Place(
            name=name,
            side="client",
            folder=scratch / f"place-{name}",
            image=images["client"],
            podman=podman,
            network=network,
            settings={
                "STILLROOM_DATA": str(site.folder),
                "STILLROOM_COURIER_MEMORY": "2g",
                "STILLROOM_RUNNER_MEMORY": "4g",
            },
        )
        for name, site in sites.items()
    ]
    for place in (operator, *hospitals):
        shutil.rmtree(place.folder, ignore_errors=True)
    proxy = tinyproxy(network, scratch, USER, PASSWORD)
    stack.callback(proxy.wait)
    stack.callback(proxy.terminate)
    archive = pacs.start(hospitals[0], scratch)
    stack.callback(archive.wait)
    stack.callback(archive.terminate)
    checks.note("namespaces, firewalls, a proxy, a PACS and phantom patients are there")
    costs = first_round(scratch, operator, hospitals, sites, checks, images_s=built)
    checks.part("containers asked while they work", partial(asked, hospitals, checks))
    copy = scratch / "server-yesterday"
    checks.part(
        "upgrade, backup and restore",
        partial(changed, scratch, operator, hospitals, images, checks),
    )
    checks.part("the release", partial(released, scratch, operator, hospitals, checks))
    checks.part(
        "a client of another release", partial(changes.other_release, hospitals[2], scratch, checks)
    )
    checks.part(
        "an old copy of the server",
        partial(changes.restore_server, operator, hospitals, copy, checks),
    )
    return costs


def asked(hospitals: list[Place], checks: Checks) -> None:
    """What the containers may do, while they work."""
    for hospital in hospitals:
        isolation.hardened(hospital, checks)
        isolation.runner_alone(hospital, checks)
        isolation.doctor(hospital, checks)
    north, river, harbour = hospitals
    for hospital in (north, river):
        isolation.courier_alone(hospital, checks, 443, SERVER)
    isolation.courier_alone(harbour, checks, 8888, PROXY)


def changed(
    scratch: Path,
    operator: Place,
    hospitals: list[Place],
    images: dict[str, str],
    checks: Checks,
) -> None:
    """Upgrade, backup, restore, in the middle of the study."""
    north, river, _ = hospitals
    backup = changes.Backup(river, scratch / "yesterday")
    river.down("courier", "runner")
    backup.take()
    river.up("courier", "runner")
    done = story.rounds_done(operator)
    changes.upgrade(north, operator, images["next"], checks)
    story.wait(lambda: story.rounds_done(operator) >= done + 2, 300)
    copy = scratch / "server-yesterday"
    changes.copy_all(operator.folder, copy)
    changes.restore_site(backup, operator, checks)


def released(scratch: Path, operator: Place, hospitals: list[Place], checks: Checks) -> None:
    """The study to its end and its release."""
    story.wait(lambda: story.result(operator) is not None, 480)
    ended = story.result(operator) or {}
    checks.hold("the study ran to its end", ended.get("status"), want="completed")
    changes.counted_once(operator, hospitals, checks)
    story.release(operator, scratch / "study", scratch, checks)
    story.ledgers(hospitals, checks)


def first_round(
    scratch: Path,
    operator: Place,
    hospitals: list[Place],
    sites: dict[str, Site],
    checks: Checks,
    *,
    images_s: float,
) -> page.Costs:
    """From empty hosts to the first committed round, with a clock."""
    started = time.monotonic()
    study = story.found(operator, scratch)
    founded = time.monotonic()
    checks.note(f"consortium founded, study signed, server up after {founded - started:.0f} s")
    for hospital in hospitals:
        proxied = hospital.name == "harbour"
        # While it enrols, a hospital may reach a second port of the server.
        if proxied:
            hospital.network.allow(hospital.name, PROXY, 8888)
        else:
            hospital.network.allow(hospital.name, SERVER, 443, 8443)
        address = story.proxy_address(USER, PASSWORD) if proxied else None
        before = None
        if hospital.name == "north":
            count, uids = pacs.fill(hospital, sites["north"].folder / "unlabelled")
            before = partial(pacs.pull, count=count, uids=uids, checks=checks)
        shown = story.join(hospital, operator, study, sites[hospital.name], address, before)
        how = "through an authenticating proxy" if proxied else "through its firewall"
        checks.hold(f"{hospital.name}: enrolled {how}", "enrolled as" in shown)
        if not proxied:
            hospital.network.allow(hospital.name, SERVER, 443)
    joined = time.monotonic()
    typed = list(hospitals[1].typed.lines)
    story.begin(operator)
    story.wait(lambda: story.rounds_done(operator) > 0, 600)
    first = time.monotonic()
    checks.hold("a first round of three hospitals is committed", story.rounds_done(operator) > 0)
    checks.hold("commands at one hospital", len(typed) <= 5, detail=str(len(typed)))
    total = first - founded
    checks.hold(
        "hospital's empty host to first round in 3 minutes", total <= 180, detail=f"{total:.0f} s"
    )
    return page.Costs(
        typed,
        list(operator.typed.lines),
        founded - started,
        joined - founded,
        first - joined,
        images_s if images_s > 60 else None,
    )


def main() -> int:
    """Exit status 0 only when every check held."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--scratch", type=Path, help="a folder for everything; else temporary")
    arguments.add_argument("--keep", action="store_true", help="leave images and logs there")
    arguments.add_argument(
        "--compose", action="store_true", help="then the same with Compose and Docker's engine"
    )
    arguments.add_argument("--no-page", action="store_true", help=f"do not write {PAGE.name}")
    given = arguments.parse_args()
    todo = engine.missing() or (docker_engine.missing() if given.compose else None)
    if todo is not None:
        sys.stderr.write(f"make field cannot run here. {todo}\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = (given.scratch or Path(tempfile.mkdtemp(prefix="stillroom-field-"))).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    checks = Checks(say=say)
    composed = Checks(say=say, name="compose") if given.compose else None
    try:
        costs = attempt(scratch, checks, composed, keep=given.keep)
    except KeyboardInterrupt:
        left = f"all but images and logs in {scratch}" if given.keep else "all that it had made"
        say(f"field: Ctrl-C after {len(checks.lines)} checks; removed {left}; no page written")
        return 130
    if costs is not None and not given.no_page:
        page.write(PAGE, checks, costs, composed)
    tried = [one for one in (checks, composed) if one is not None]
    for one in tried:
        say(one.summary())
    return 0 if all(one.lines and one.passed == len(one.lines) for one in tried) else 1


def attempt(
    scratch: Path, checks: Checks, composed: Checks | None, *, keep: bool
) -> page.Costs | None:
    """The field, then Compose where that is wanted; then the scratch folder goes, unless it is kept.

    Raises:
        KeyboardInterrupt: Ctrl-C, after everything was removed.
    """
    try:
        costs = safely(partial(play, scratch), checks)
        if composed is not None:
            safely(partial(compose_engine.play, scratch, f"strf{os.getpid() % 10000}"), composed)
        return costs
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if not keep:
            clear(scratch)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def clear(scratch: Path) -> None:
    """Podman's storage is mounts and other users' files; podman itself removes it best."""
    for storage in ("b", "p"):
        podman = engine.Podman(scratch / storage, "none")
        podman.call("system", "reset", "--force", check=False)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
