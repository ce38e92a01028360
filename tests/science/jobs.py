"""Families and seeds as processes of one thread each, results kept as they come.

A result is one file, renamed into place when it is whole: an interrupted run goes on from those that
are there, and what has none was not run. One that other arms or sizes left does not count; the product's
own code may have changed meanwhile, which is for whoever resumes to know.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("claims.py")
STATED = 20
"""Lines of a failed job's errors that are kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """One family on one seed.

    Attributes:
        family: Of arms, or of experiments.
        seed: Of everything.
        worker: What runs it, beside this file.
    """

    family: str
    seed: int
    worker: str = WORKER.name

    def path(self, folder: Path) -> Path:
        """Where its result lies in ``folder``."""
        return folder / f"{self.family}-{self.seed}.json"

    def result(self, folder: Path) -> dict[str, Any] | None:
        """What was kept of it; None when it has not run to its end."""
        path = self.path(folder)
        kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return kept if kept.get("arms") == self.arms() else None

    def arms(self) -> str:
        """SHA-256 of what decides what it is."""
        own = () if self.worker == WORKER.name else (f"why_{self.family}.py",)
        return arms(own)


@cache
def arms(more: tuple[str, ...] = ()) -> str:
    """SHA-256 of what decides which arms are run, and at which sizes; with ``more`` files after it."""
    here = WORKER.parent
    files = [*here.glob("arms_*.py"), here / "families.py", here / "spine_hospitals.py"]
    paths = [*sorted(files), *(here / name for name in more)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def keep(job: Job, folder: Path, found: Mapping[str, Any]) -> None:
    """Write ``found`` whole or not at all, with the arms that it came from."""
    value, path = {**found, "arms": job.arms()}, job.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), "utf-8")
    os.replace(temporary, path)


@dataclass
class Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen[str]
    began: float


def run_all(
    jobs: Sequence[Job],
    folder: Path,
    *,
    at_once: int,
    seconds: float | None,
    quick: bool,
    say: Callable[[str], None],
) -> list[Job]:
    """Run ``jobs`` in order, some at once; those that have a result are left alone.

    Args:
        jobs: In the order in which they are begun.
        folder: For results.
        at_once: How many processes.
        seconds: After these nothing is begun and what runs is ended; None for no bound.
        quick: Small sizes.
        say: Told a line for every job.

    Returns:
        Jobs that ended in an error.
    """
    end = None if seconds is None else time.monotonic() + seconds
    waiting = [job for job in jobs if job.result(folder) is None]
    running: list[Running] = []
    failed: list[Job] = []
    # Told to end, it ends its processes too, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            if end is not None and time.monotonic() > end:
                say(f"time is over: {len(running)} ended, {len(waiting)} not begun")
                break
            while waiting and len(running) < at_once:
                running.append(_begin(waiting.pop(0), folder, quick=quick))
            time.sleep(0.2)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if one.job.result(folder) is None:
                    failed.append(one.job)
                _report(one, folder, say)
    finally:
        for one in running:
            one.process.terminate()
            one.process.wait()
    return failed


def _begin(job: Job, folder: Path, *, quick: bool) -> Running:
    size = ["--quick"] if quick else []
    folder.mkdir(parents=True, exist_ok=True)
    errors = job.path(folder).with_suffix(".stderr")
    with errors.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(WORKER.with_name(job.worker)),
                "--one",
                job.family,
                str(job.seed),
                str(folder),
                *size,
            ],
            stdout=subprocess.DEVNULL,
            stderr=stream,
            text=True,
            # One thread each: two families side by side, not one on two cores.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return Running(job, process, time.monotonic())


def _report(one: Running, folder: Path, say: Callable[[str], None]) -> None:
    wall = time.monotonic() - one.began
    kept = one.job.result(folder)
    name = f"{one.job.family}, seed {one.job.seed}"
    if kept is None:
        errors = one.job.path(folder).with_suffix(".stderr").read_text("utf-8").splitlines()
        say("\n".join([f"{name}: failed after {wall:.0f} s", *errors[-STATED:]]))
    else:
        say(f"{name}: {wall:.0f} s, of them {kept['cpu_s']:.0f} on a core")
