"""Full disks and clocks that jump by ten minutes: a named error, and the study goes on afterwards.

A full disk is a small file system of its own (tmpfs; needs root), filled while the study runs and
emptied once its error was named. At the server it may pause the run; then the operator resumes it,
as the error says. At a site it may cost the site a round, not the study; the next one has it again.
A clock jumps inside one process (``inject/hooks.py``) while the first round is trained, and is set
right twenty seconds later; consents are an hour old then, as they are days old in the field.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from consortium import Consortium
from plan import Plan
from supervisor import STUDY_S, Supervisor, Verdict, judge

from stillroom.server.store.folder import is_free

SHAPES = {"encoder.weight": (1024, 512), "heads.vessels.weight": (3, 32, 1, 1, 1)}
"""2.1 MB: does not fit what a full disk has left."""
SIZE_MIB, JUMP_S, WRONG_S = 160, 600.0, 20.0
FULL_S, PATIENCE_S = 3.0, 90.0
"""A disk is full for so long at least, and at most where nobody names it."""
LOOK_S, PAUSED_S = 0.5, 3.0
"""Between two looks at the logs; and how long a run rests before it is taken for paused."""
AGO_S = 3600.0
"""Age of the consents: what was signed a moment ago is not valid yet by a clock that jumps back."""
NAMED = re.compile(r"STR-[0-9]{3}")
FULL = "STR-503"


@dataclass
class Filling:
    """Fills a disk once a site has trained, empties it, and resumes the run if that is paused."""

    consortium: Consortium
    disk: Path
    full_at: float | None = None
    emptied_at: float | None = None
    looked_at: float = 0.0

    def __call__(self) -> None:
        """One look."""
        now = time.monotonic()
        if now - self.looked_at < LOOK_S:
            return
        self.looked_at, plan = now, self.consortium.plan
        filler = self.disk / "filler"
        if self.full_at is None:
            if any((plan.out / "trained").iterdir()):
                _fill(filler)
                self.full_at = now
        elif self.emptied_at is None:
            full_s = now - self.full_at
            if full_s > PATIENCE_S or (full_s > FULL_S and FULL in codes_of(plan)):
                filler.unlink()
                self.emptied_at = now
        elif now - self.emptied_at > PAUSED_S and is_free(plan.layout.run):
            self.consortium.resume()
            self.emptied_at = now


def _fill(filler: Path) -> None:
    with filler.open("wb") as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 20))
            stream.flush()


def codes_of(plan: Plan) -> set[str]:
    """The codes that logs and events name."""
    logs = [path.read_text("utf-8", "replace") for path in plan.layout.logs.iterdir()]
    events = plan.layout.run / "events.jsonl"
    logs.append(events.read_text("utf-8", "replace") if events.exists() else "")
    return set(NAMED.findall("".join(logs)))


def faults(scratch: Path, total: Any) -> Any:
    """Every fault, into ``total``."""
    for name, place, at_site in (
        ("the depot's disk is full", "server/state", False),
        ("the run's disk is full", "run", False),
        ("a courier's disk is full", "sites/site-001/courier", True),
        ("a runner's disk is full", "sites/site-001/exchange", True),
    ):
        if not _may_mount(scratch):
            total.rows.append({"fault": name, "left_out": "this machine allows no mount"})
            _say(f"{name}: left out, this machine allows no mount")
            continue
        # A site that is left out of a round must not be one that the quorum needs.
        plan = _plan(scratch, name, sites=3 if at_site else 2)
        absent = frozenset({"site-001"} if at_site else ())
        _note(total, name, *_study(plan, {}, plan.out / place, absent))
    for name, clock in (
        ("a courier's clock jumps forward", {"role": "courier", "site": "site-001"}),
        ("a courier's clock jumps back", {"role": "courier", "site": "site-001"}),
        ("the server's clock jumps forward", {"role": "link"}),
        ("the server's clock jumps back", {"role": "link"}),
        ("the server app's clock jumps forward", {"role": "app"}),
        ("the server app's clock jumps back", {"role": "app"}),
        ("a runner's clock jumps forward", {"role": "runner", "site": "site-001"}),
        ("a runner's clock jumps back", {"role": "runner", "site": "site-001"}),
    ):
        at_site = "site" in clock
        plan = _plan(scratch, name, sites=3 if at_site else 2)
        jump = {"jump_s": JUMP_S if name.endswith("forward") else -JUMP_S, "for_s": WRONG_S}
        hooks = {"clock": {**clock, **jump, "once": str(plan.out / "trained")}}
        absent = frozenset({"site-001"} if at_site else ())
        _note(total, name, *_study(plan, hooks, absent=absent), named=False)
    return total


def _plan(scratch: Path, name: str, *, sites: int = 2) -> Plan:
    out = scratch / re.sub(r"\W+", "-", name)
    out.mkdir()
    quorum = {"min_sites": 2, "grace_s": 30.0}
    return Plan(out=out, shapes=SHAPES, sites=sites, rounds=4, seconds=1.0, quorum=quorum)


def _study(
    plan: Plan,
    hooks: dict[str, Any],
    disk: Path | None = None,
    absent: frozenset[str] = frozenset(),
) -> tuple[Verdict, set[str]]:
    """One study with one fault; also the codes that the logs name."""
    consortium, verdict = Consortium(plan, hooks), Verdict()
    earlier = time.time() - AGO_S
    with mock.patch("stillroom.client.consents.time.time", return_value=earlier):
        consortium.found()
    with contextlib.ExitStack() as stack:
        tend: list[Any] = [Supervisor(consortium, 0).tend]
        if disk is not None:
            stack.enter_context(_disk(disk))
            tend.append(Filling(consortium, disk))
        started = time.monotonic()
        try:
            consortium.start_all()
            consortium.wait(STUDY_S, tend=tend)
        except (TimeoutError, RuntimeError) as error:
            verdict.problems.append(str(error))
        finally:
            consortium.stop()
        verdict.seconds = time.monotonic() - started
        judge(plan, consortium, verdict, absent=absent)
        return verdict, codes_of(plan)


def _note(total: Any, name: str, verdict: Verdict, codes: set[str], *, named: bool = True) -> None:
    """Tell of one fault. A clock that nobody minds needs no error; a full disk does."""
    total.count(verdict)
    total.problems += [f"{name}: {problem}" for problem in verdict.problems]
    if named and FULL not in codes:
        total.problems.append(f"{name}: no log names it")
    how = "; ".join(verdict.problems) or "completed"
    total.rows.append(
        {
            "fault": name,
            "seconds": round(verdict.seconds),
            "codes": sorted(codes),
            "problems": verdict.problems,
        }
    )
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
    """A small disk at ``place``, with what is there; gone at the end, and all that was written."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = ["-o", f"size={SIZE_MIB}m,mode={place.stat().st_mode & 0o777:o}"]
    mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    before = place.with_name(f"{place.name}-before")
    shutil.copytree(place, before)
    subprocess.run(mount, check=True, capture_output=True)
    shutil.copytree(before, place, dirs_exist_ok=True)
    shutil.rmtree(before)
    try:
        yield
    finally:
        for _ in range(50):
            done = subprocess.run(["umount", str(place)], check=False, capture_output=True)
            if done.returncode == 0:
                break
            time.sleep(0.1)
