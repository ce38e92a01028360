"""A server that takes its log back, with real processes over mutual TLS: ``serve`` and ``courier``.

A site has seen the log of today. The server is stopped, its disk is put back or its log written
again, and it is started. An honest operator is stopped by the guard. A malicious one puts the guard
back, too: then the site's courier, which ran all the time, must notice, stop, and say so.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stillroom.common.log_entries import UNSTAMPED, Operator
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.study import Study
from stillroom.deploy.consortium_files import (
    Layout,
    agree,
    found_consortium,
    logbook,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.processes import free_ports

TINY = Path(__file__).parents[1] / "federation" / "tiny.toml"
SERVER, CLIENT = "stillroom.server.cli", "stillroom.client.cli"
SITES = ("harbour", "north")
PATIENCE_S = 240.0
"""For one step of a story, on a machine with much else to do."""


@dataclass
class Processes:
    """What runs, by name, and what each has said."""

    layout: Layout
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        """A command of ours; its screen goes into a file."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "FLWR_HOME": str(self.layout.server / "flwr")}
        self.layout.logs.mkdir(exist_ok=True)
        with self.screen(name).open("wb") as screen:
            command = [sys.executable, "-P", "-m", *words, "--follow-parent", str(os.getpid())]
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, env=env
            )

    def screen(self, name: str) -> Path:
        """What it has said."""
        return self.layout.logs / f"{name}.log"

    def stop(self, *names: str) -> None:
        """End them, as systemd would."""
        for name in names:
            self.running[name].terminate()
        for name in names:
            try:
                self.running.pop(name).wait(30)
            except subprocess.TimeoutExpired:
                self.running.pop(name).kill()

    def ended(self, name: str) -> int:
        """The exit status of a process that ends by itself."""
        return self.running[name].wait(PATIENCE_S)


@dataclass(frozen=True)
class Told:
    """What became of one betrayal.

    Attributes:
        crime: What was done.
        guard: What ``serve`` said while the guard was in place; empty where it started.
        sites: Site -> what its courier said last, for those that stopped as they must.
    """

    crime: str
    guard: str
    sites: dict[str, str]

    @property
    def caught(self) -> bool:
        """By the guard, and without it by every site."""
        return bool(self.guard) and self.sites.keys() == set(SITES)


def found(folder: Path) -> Layout:
    """A consortium of two sites on disk."""
    layout = Layout(folder)
    inner, edge = free_ports(2)
    prepare_study(Study.load(TINY), layout.study)
    found_consortium(layout, SITES)
    write_server_config(layout, edge_port=edge, inner_port=inner)
    for name in SITES:
        data = layout.site(name) / "data"
        data.mkdir()
        write_site_config(layout, name, server_port=edge, data=[data], labels={}, threads=1, seed=0)
    agree(layout, SITES)
    return layout


def _work(layout: Layout, count: int, what: str) -> None:
    """Entries of a day, written with the log's own key."""
    logbook(layout).note(*(Operator(time=UNSTAMPED, act=f"{what} {n}") for n in range(count)))


def rolled_back(layout: Layout, yesterday: Path) -> None:
    """Yesterday's copy of the log's folder, as a backup restores it."""
    log = _log(layout)
    shutil.rmtree(log)
    shutil.copytree(yesterday / "log", log)


def forked(layout: Layout, yesterday: Path) -> None:
    """Yesterday's log, and then another, longer today."""
    guard, kept = _guard(layout), _guard(layout).read_bytes()
    rolled_back(layout, yesterday)
    shutil.copyfile(yesterday / "guard", guard)
    _work(layout, 30, "forged")
    guard.write_bytes(kept)


CRIMES: dict[str, Callable[[Layout, Path], None]] = {
    "rolled back to yesterday's disk": rolled_back,
    "forked from yesterday on, and longer": forked,
}


def betray(folder: Path, crimes: Sequence[str] = tuple(CRIMES)) -> Iterator[Told]:
    """Every crime, each against the same consortium, told from its beginning."""
    for crime in crimes:
        yield _betray(folder / re.sub(r"\W+", "-", crime), crime)


def _betray(folder: Path, crime: str) -> Told:
    layout = found(folder)
    processes = Processes(layout)
    serve = [SERVER, "serve", "--config", str(layout.server / "server.toml")]
    yesterday = folder / "yesterday"
    try:
        processes.start("server", *serve)
        for name in SITES:
            config = str(layout.site_config(name))
            processes.start(name, CLIENT, "courier", "--config", config)
        _until(lambda: all(_seen(layout, name) for name in SITES))
        # The server's own entries come first; what lies on the disk now is yesterday's copy.
        shutil.copytree(_log(layout), yesterday / "log")
        shutil.copyfile(_guard(layout), yesterday / "guard")
        _work(layout, 12, "act")
        today = logbook(layout).size()
        processes.stop("server")
        processes.start("server-today", *serve)
        _until(lambda: all(_seen(layout, name) >= today for name in SITES))
        processes.stop("server-today")

        CRIMES[crime](layout, yesterday)
        processes.start("server-honest", *serve)
        refused = processes.ended("server-honest")
        guard = _line(processes.screen("server-honest"), "STR-221") if refused else ""
        # The malicious operator's way past it: the guard's promise is made that of the log shown.
        _guard(layout).write_bytes(_own_note((_log(layout) / "checkpoint").read_bytes()))
        processes.start("server-malicious", *serve)
        stopped = {}
        for name in SITES:
            status = processes.ended(name)
            said = _line(processes.screen(name), "STR-222")
            if status and said and _evidence(layout, name):
                stopped[name] = said
        return Told(crime, guard, stopped)
    finally:
        processes.stop(*processes.running)


def _own_note(note: bytes) -> bytes:
    """A checkpoint without cosignatures, as the guard keeps it."""
    head, _, signatures = note.partition(b"\n\n")
    return head + b"\n\n" + signatures.splitlines()[0] + b"\n"


def _log(layout: Layout) -> Path:
    return layout.server / "state" / "log"


def _guard(layout: Layout) -> Path:
    return layout.server / "state" / "log.guard"


def _seen(layout: Layout, site: str) -> int:
    """How many entries of the log a site has seen, by the checkpoint it keeps."""
    for path in layout.site(site).rglob("witness/checkpoint"):
        return int(path.read_text("utf-8").splitlines()[1])
    return 0


def _evidence(layout: Layout, site: str) -> bool:
    """The mark that keeps it stopped, what it was shown, and a line in its ledger."""
    folder = layout.site(site)
    ledger = "".join(path.read_text("utf-8") for path in folder.rglob("ledger.jsonl"))
    marks = list(folder.rglob("witness/stopped")), list(folder.rglob("witness/shown-*"))
    return all(marks) and "STR-222" in ledger


def _line(screen: Path, code: str) -> str:
    """What a process said with this code, in one line; empty when it did not."""
    match = re.search(rf"error {code}: .*", screen.read_text("utf-8", "replace"))
    return match[0] if match else ""


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("a process did not do what it was waited for")
        time.sleep(0.1)
