"""Faults of a server's disk, memory and state: folders, registry, log, runs, studies, sites."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from place import OTHER, SITE, THIRD, Place, full, mounted, prepare_study, read_only, set_toml
from server_place import View, edge_json, server_fault, want_run

from stillroom.common.log_entries import UNSTAMPED, Operator
from stillroom.common.pki.files import load_signing_key
from stillroom.common.signed_study import sign_study
from stillroom.common.tlog.note import Note, Signature, parse_note
from stillroom.server.config import ServerConfig
from stillroom.server.logbook import Logbook, open_logbook
from stillroom.server.store.members import Issued
from stillroom.server.store.registry import Registry
from stillroom.server.store.runs import STOPPED, Runs

GARBAGE = b"\xff" * 4096


@server_fault("state: disk full", "a small tmpfs, filled", "state folder", "STR-503", "full")
def state_full(place: Place, config: Path) -> Iterator[None]:
    """Not a byte left."""
    with full(config.parent / "state"):
        yield


@server_fault("state: disk nearly full", "a tmpfs of 64 MiB", "disk", "STR-503", "Free the disk")
def state_small(place: Place, config: Path) -> Iterator[None]:
    """Room to write, and not for a round."""
    state = config.parent / "state"
    shutil.copytree(state, config.parent / "kept")
    with mounted(state, "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs"):
        shutil.copytree(config.parent / "kept", state, dirs_exist_ok=True)
        state.chmod(0o700)
        yield


@server_fault("state read-only", "a read-only mount", "state folder", "STR-110", "read-write")
def state_read_only(place: Place, config: Path) -> Iterator[None]:
    """As a container with one volume forgotten."""
    with read_only(config.parent / "state"):
        yield


@server_fault(
    "state of another account", "its owner changed, `setpriv` without rights over it",
    "state folder", "STR-110", "Permission denied",
)  # fmt: skip
def state_of_another(place: Place, config: Path) -> Iterator[View]:
    """As after a copy made by root."""
    os.chown(config.parent / "state", 65534, 65534)
    rights = "-dac_override,-dac_read_search,-fowner"
    yield View(before=("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"))


@server_fault("state open to everybody", "chmod 777", "state folder", "STR-202", "chmod 700")
def state_open(place: Place, config: Path) -> Iterator[None]:
    """Who can write there decides what runs."""
    (config.parent / "state").chmod(0o777)
    yield


@server_fault("SuperExec secret readable", "chmod 644", "SuperExec secret", "STR-202", "chmod 600")
def secret_open(place: Place, config: Path) -> Iterator[None]:
    """Whoever has it takes the server's tasks."""
    path = ServerConfig.load(config).secret_file
    path.write_text("0" * 64)
    path.chmod(0o644)
    yield


@server_fault(
    "memory limit", "a cgroup's 256 MiB, as the kernel tells", "memory", "STR-503", "limit"
)
def memory_limit(place: Place, config: Path) -> Iterator[View]:
    """Of the container, on a large machine."""
    yield View(
        prelude="from stillroom.common.memory import MemorySeen\n"
        "machine.look_at_memory = lambda _: MemorySeen(64 << 30, 64 << 30, 256 << 20, 0)"
    )


@server_fault("registry damaged", "pages overwritten", "registry", "STR-101", "damaged", "backup")
def registry_damaged(place: Place, config: Path) -> Iterator[None]:
    """By a disk that failed."""
    path = config.parent / "registry.db"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + GARBAGE * (len(data) // 4096 - 1))
    yield


@server_fault("registry missing", "removed", "registry", "STR-101")
def registry_missing(place: Place, config: Path) -> Iterator[None]:
    """Named in server.toml and not there."""
    for path in config.parent.glob("registry.db*"):
        path.unlink()
    yield


def _book(config: Path) -> Logbook:
    book = open_logbook(ServerConfig.load(config))
    assert book is not None
    return book


def _add_entry(config: Path) -> None:
    _book(config).note(Operator(time=UNSTAMPED, act="site renew", subject=SITE))


@contextlib.contextmanager
def _put_back(config: Path, *names: str) -> Iterator[None]:
    """What the block changes of the log is undone after it, as by a backup."""
    state, kept = config.parent / "state", config.parent / "kept"
    kept.mkdir()
    shutil.copytree(state / "log", kept / "log")
    shutil.copyfile(state / "log.guard", kept / "log.guard")
    yield
    if "log" in names:
        shutil.rmtree(state / "log")
        shutil.copytree(kept / "log", state / "log")
    if "log.guard" in names:
        shutil.copyfile(kept / "log.guard", state / "log.guard")


@server_fault("log cut short", "the last tile removed", "log", "STR-221", "newest copy")
def log_cut(place: Place, config: Path) -> Iterator[None]:
    """By a disk that failed, or by somebody."""
    tiles = config.parent / "state" / "log" / "tile"
    newest = max((p for p in tiles.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    for path in tiles.rglob(newest.name):
        path.unlink()
    yield


@server_fault("log put back", "the copy of an entry ago", "log", "STR-221", "newest copy")
def log_older(place: Place, config: Path) -> Iterator[None]:
    """From yesterday's backup; the guard is today's."""
    with _put_back(config, "log"):
        _add_entry(config)
    yield


@server_fault(
    "log and guard put back", "both; a site has vouched for more", "log", "STR-221", SITE,
    "newest copy",
)  # fmt: skip
def both_older(place: Place, config: Path) -> Iterator[None]:
    """What only a site's word tells."""
    with _put_back(config, "log", "log.guard"):
        _add_entry(config)
        book = _book(config)
        note = parse_note((book.log.folder / "checkpoint").read_bytes())
        word = Signature(SITE, b"site", bytes(72))
        book.cosigned.folder.mkdir(exist_ok=True)
        told = Note(note.text, (note.signatures[0], word))
        (book.cosigned.folder / SITE).write_bytes(told.to_bytes())
    yield


@server_fault("log gone", "log and guard removed", "log", "STR-221", "gone")
def log_gone(place: Place, config: Path) -> Iterator[None]:
    """Not even a promise is left."""
    shutil.rmtree(config.parent / "state" / "log")
    (config.parent / "state" / "log.guard").unlink()
    yield


@server_fault("checkpoint damaged", "overwritten", "log", "STR-221", "checkpoint", "damaged")
def checkpoint_damaged(place: Place, config: Path) -> Iterator[None]:
    """By a disk that failed."""
    (config.parent / "state" / "log" / "checkpoint").write_bytes(GARBAGE)
    yield


@server_fault(
    "Flower's state damaged", "overwritten; a server without a registry", "Flower's state",
    "STR-101", "damaged", "site register", also=("registry",),
)  # fmt: skip
def flower_damaged(place: Place, config: Path) -> Iterator[None]:
    """Where Flower alone knows who may come in."""
    set_toml(config, registry=None)
    (config.parent / "state" / "flower.db").write_bytes(GARBAGE)
    yield


@server_fault(
    "Flower's state missing", "removed after it ran; without a registry", "Flower's state",
    "STR-101", "site register", also=("registry",),
)  # fmt: skip
def flower_gone(place: Place, config: Path) -> Iterator[None]:
    """It knows no site any more."""
    set_toml(config, registry=None)
    edge_json(config, since=time.time())
    yield


@server_fault("table of runs damaged", "overwritten", "runs", "STR-101", "Restore")
def runs_damaged(place: Place, config: Path) -> Iterator[None]:
    """By a disk that failed."""
    (config.parent / "state" / "runs.db").write_bytes(GARBAGE)
    yield


@server_fault(
    "a run, and no server", "wanted; neither `serve` nor `execute` up", "runs", "", "execute",
    outcome="warning",
)  # fmt: skip
def nobody_works(place: Place, config: Path) -> Iterator[None]:
    """As after a reboot without the units."""
    want_run(place, config)
    yield


@server_fault("run paused", "`wanted` changed", "runs", "", "run resume", outcome="warning")
def paused(place: Place, config: Path) -> Iterator[None]:
    """And forgotten."""
    run = want_run(place, config)
    with Runs(ServerConfig.load(config).runs) as runs:
        runs.want(run.name, STOPPED, time.time())
    yield


@server_fault(
    "study not signed", "study.sig removed", "studies", "STR-209", "sign it", also=("runs",)
)
def unsigned(place: Place, config: Path) -> Iterator[None]:
    """By nobody."""
    (want_run(place, config).study / "study.sig").unlink()
    yield


@server_fault("study gone", "its folder removed", "studies", "STR-204", "back", also=("runs",))
def study_gone(place: Place, config: Path) -> Iterator[None]:
    """The run is still wanted."""
    shutil.rmtree(want_run(place, config).study)
    yield


@server_fault(
    "quorum impossible", "three sites needed, one revoked (`site revoke`)", "quorum", "STR-306",
    "3 sites", "2 are enrolled", also=("runs",),
)  # fmt: skip
def too_few(place: Place, config: Path) -> Iterator[None]:
    """No round of it can count."""
    study = config.parent / "of-three"
    prepare_study(study, min_sites=3)
    sign_study(study, load_signing_key(config.parent / "operator.key"))
    want_run(place, config, study)
    command = [sys.executable, "-P", "-m", "stillroom.server.cli", "site", "revoke", THIRD]
    subprocess.run([*command, "--config", str(config)], check=True, capture_output=True)
    yield


def _seen(config: Path, **days_ago: float) -> None:
    """What the edge has written down of each site."""
    now = time.time()
    sites = {name: {"last_seen": now - days * 86400} for name, days in days_ago.items()}
    edge_json(config, since=now - 40 * 86400, sites=sites)


@server_fault(
    "site silent", "last seen two days ago, in edge.json", "silent sites", "", OTHER, "Telephone",
    outcome="warning",
)  # fmt: skip
def silent(place: Place, config: Path) -> Iterator[None]:
    """Nobody has told the operator."""
    _seen(config, **{SITE: 0.0, OTHER: 2.0, THIRD: 0.0})
    yield


def _ends(config: Path, days: float) -> None:
    with Registry(config.parent / "registry.db", note=_book(config).note) as registry:
        site = registry.site(OTHER)
        pem, digest = str(site.certificate_pem), str(site.certificate_sha256)
        registry.renewed(OTHER, Issued(pem, digest, time.time() + days * 86400), time.time())


@server_fault(
    "site certificate about to expire", "its end, in the registry", "site certificates", "STR-201",
    OTHER, "ending within", outcome="warning",
)  # fmt: skip
def site_ends(place: Place, config: Path) -> Iterator[None]:
    """Its courier has not renewed."""
    _ends(config, 3)
    yield


@server_fault(
    "site certificate expired", "its end, in the registry", "site certificates", "STR-201", OTHER,
    "new invitation", outcome="warning",
)  # fmt: skip
def site_ended(place: Place, config: Path) -> Iterator[None]:
    """It was away for too long."""
    _ends(config, -1)
    yield
