"""Full disks and clocks that jump by ten minutes: a named error, and the study goes on afterwards.

A full disk is a small file system of its own (tmpfs; needs root), filled while the study runs and
emptied a few seconds later. A clock jumps inside one process (``inject/hooks.py``), whose next
life has the right time again.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consortium import Consortium
from plan import Plan
from supervisor import Supervisor, Verdict, judge

SHAPES = {"encoder.weight": (1024, 512), "heads.vessels.weight": (3, 32, 1, 1, 1)}
"""2.1 MB: does not fit what a full disk has left."""
SIZE_MIB, FULL_S, JUMP_S = 160, 6.0, 600.0
NAMED = re.compile(r"STR-[0-9]{3}")


@dataclass
class Filling:
    """Fills a disk once a site has trained, and empties it again."""

    plan: Plan
    disk: Path
    full_at: float | None = None

    def __call__(self) -> None:
        """One look."""
        filler = self.disk / "filler"
        if self.full_at is None and any((self.plan.out / "trained").iterdir()):
            with filler.open("wb") as stream, contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(1 << 20))
                    stream.flush()
            self.full_at = time.monotonic()
        elif self.full_at and time.monotonic() > self.full_at + FULL_S:
            filler.unlink(missing_ok=True)


def faults(total: Any, scratch: Path) -> None:
    """Every fault."""
    for name, place in (
        ("the depot's disk is full", "server/state"),
        ("the run's disk is full", "run"),
        ("a courier's disk is full", "sites/site-001/courier"),
        ("a runner's disk is full", "sites/site-001/exchange"),
    ):
        if not _may_mount(scratch):
            _say(f"{name}: left out, this machine allows no mount")
            continue
        plan = _plan(scratch, name)
        disk = plan.out / place
        with _disk(disk):
            _note(total, name, *_study(plan, {}, Filling(plan, disk)))
    for name, clock in (
        ("a courier's clock jumps forward", {"role": "courier", "site": "site-001"}),
        ("a courier's clock jumps back", {"role": "courier", "site": "site-001"}),
        ("the server's clock jumps forward", {"role": "link"}),
        ("the server app's clock jumps back", {"role": "app"}),
        ("a runner's clock jumps forward", {"role": "runner", "site": "site-001"}),
    ):
        jump = JUMP_S if name.endswith("forward") else -JUMP_S
        hooks = {"clock": {**clock, "after_s": 6.0, "jump_s": jump}}
        plan = _plan(scratch, name)
        _note(total, name, *_study(plan, hooks, lambda: None), named=False)


def _plan(scratch: Path, name: str) -> Plan:
    out = scratch / re.sub(r"\W+", "-", name)
    out.mkdir()
    return Plan(out=out, shapes=SHAPES, sites=2, rounds=3, seconds=1.0)


def _study(
    plan: Plan, hooks: dict[str, Any], fault: Callable[[], None]
) -> tuple[Verdict, set[str]]:
    """One study with one fault; also the codes that the logs name."""
    consortium, verdict = Consortium(plan, hooks), Verdict()
    started = time.monotonic()
    try:
        consortium.found()
        supervisor = Supervisor(consortium, 0)
        consortium.start_all()
        consortium.wait(120, tend=[supervisor.tend, fault])
    except (TimeoutError, RuntimeError) as error:
        verdict.problems.append(str(error))
    finally:
        consortium.stop()
    verdict.seconds = time.monotonic() - started
    judge(plan, consortium, verdict)
    logs = [path.read_text("utf-8", "replace") for path in plan.layout.logs.iterdir()]
    logs.append((plan.layout.run / "events.jsonl").read_text("utf-8"))
    return verdict, set(NAMED.findall("".join(logs)))


def _note(total: Any, name: str, verdict: Verdict, codes: set[str], *, named: bool = True) -> None:
    """Tell of one fault. A clock that nobody minds needs no error; a full disk does."""
    total.wrong += verdict.wrong
    total.lost += verdict.lost
    total.others += [f"{name}: {problem}" for problem in verdict.problems]
    if named and not codes & {"STR-503"}:
        total.others.append(f"{name}: no log names it")
    how = "; ".join(verdict.problems) or "completed"
    _say(f"{name}: {how} in {verdict.seconds:.0f} s, told as {', '.join(sorted(codes)) or '-'}")


def _say(text: str) -> None:
    sys.stdout.write(f"\nfault, {text}\n")
    sys.stdout.flush()


def _may_mount(scratch: Path) -> bool:
    if os.geteuid() != 0:
        return False
    with contextlib.suppress(subprocess.CalledProcessError), _disk(scratch / "try"):
        return True
    return False


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    """A small disk at ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    options = ["-o", f"size={SIZE_MIB}m"]
    mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        for _ in range(50):
            done = subprocess.run(["umount", str(place)], check=False, capture_output=True)
            if done.returncode == 0:
                break
            time.sleep(0.1)
