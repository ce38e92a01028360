"""Registry, log, runs and sites, as they lie on the disk."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.tlog.checkpoint import Checkpoint, open_checkpoint
from stillroom.common.tlog.folder import CHECKPOINT, LogFolder
from stillroom.common.tlog.merkle import verify_consistency
from stillroom.server.doctor.examination import Examination
from stillroom.server.log import Log
from stillroom.server.logbook import open_logbook
from stillroom.server.run_status import Standing, standing
from stillroom.server.store.members import ENROLLED, SiteRecord
from stillroom.server.store.runs import Runs

SOON_DAYS = 7
SILENT_S = 24 * 3600.0
SHOWN = 5
"""Names in a sentence."""


def registry(exam: Examination) -> Finding:
    """Whether the database is whole, and who is in it."""
    path = exam.config.registry
    if path is None:
        return warning(
            "There is no registry: every certificate of the CA gets in, revoked or not.",
            "Name one in server.toml (`init` makes it).",
            told="none",
        )
    sites = exam.sites
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        verdict = str(db.execute("PRAGMA quick_check").fetchone()[0])
    if verdict != "ok":
        return failed(
            "The registry's file is damaged.",
            "Restore it from a backup; the log says what has changed since.",
            "STR-101",
            told="damaged",
        )
    counts = Counter(site.status for site in sites)
    said = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "empty"
    return ok(f"Whole; sites: {said}.", told=said)


def log(exam: Examination) -> Finding:
    """Whether what is published is what was promised, to the last entry."""
    book = open_logbook(exam.config)
    if book is None:
        return skipped("the consortium has no log")
    return log_finding(book.log)


def log_finding(kept: Log) -> Finding:
    """What published checkpoint, guard and tiles say together. Reads, changes nothing."""
    published = _checkpoint(kept, kept.folder / CHECKPOINT)
    promised = _checkpoint(kept, kept.guard)
    if published is None and promised is None:
        return ok("The log is empty.", told="empty")
    broken = failed(
        "The log does not continue what was promised of it.",
        "Put back the newest copy of the log; `stillroom-audit verify` says what a copy holds.",
        "STR-221",
        told="does not continue the guard",
    )
    if promised is None or published is None:
        return broken
    if published.size > promised.size:
        return broken
    try:
        tree = LogFolder(kept.folder, published.size)
        whole = tree.root() == published.root
        if published.size < promised.size:
            longer = LogFolder(kept.folder, promised.size)
            path = longer.consistency(published.size)
            whole = whole and verify_consistency(
                published.size, published.root, promised.size, promised.root, path
            )
    except ValueError:
        whole = False
    if not whole:
        return broken
    behind = promised.size - published.size
    if behind:
        return warning(
            f"{published.size} entries are published, {behind} more are promised.",
            "Start the server: it finishes the append that was cut short.",
            told=f"{behind} not published yet",
        )
    return ok(f"{published.size} entries, as promised.", told=f"{published.size} entries")


def _checkpoint(kept: Log, path: Any) -> Checkpoint | None:
    try:
        return open_checkpoint(path.read_bytes(), kept.verifier)[0]
    except (OSError, ValueError):
        return None


def runs(exam: Examination) -> Finding:
    """What is wanted, and what of it goes on."""
    if not exam.config.runs.exists():
        return ok("No run yet.", told="none")
    with Runs(exam.config.runs) as table:
        found = [(run.name, standing(run)) for run in table.all()]
    return runs_finding(found)


def runs_finding(found: Sequence[tuple[str, Standing]]) -> Finding:
    """What they mean. Pure."""
    counts = Counter(s.state for _, s in found)
    told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "none"
    halted = [(name, s.reason) for name, s in found if s.state == "paused"]
    if halted:
        name, reason = halted[-1]
        why = f": {reason}" if reason else ""
        return warning(
            f"Run {name} is paused{why}.",
            "See `stillroom-server run list`; `run resume` goes on with it.",
            told=told,
        )
    waiting = [name for name, s in found if s.state == "starting"]
    if waiting:
        return warning(
            f"Run {waiting[-1]} is wanted, and no process works on it.",
            "Check that `stillroom-server serve` and `execute` both run.",
            told=told,
        )
    return ok(f"{told[:1].upper()}{told[1:]}.", told=told)


def silent(exam: Examination) -> Finding:
    """Enrolled sites that the edge has not heard for a day."""
    if not exam.traffic:
        return skipped("the edge has not run yet")
    return silent_finding(exam.sites, exam.traffic, exam.now.timestamp())


def silent_finding(sites: Sequence[SiteRecord], traffic: Mapping[str, Any], now: float) -> Finding:
    """What the last sights of them mean. Pure."""
    enrolled = [site.name for site in sites if site.status == ENROLLED] or sorted(traffic)
    quiet = [
        name
        for name in enrolled
        if name not in traffic or now - float(traffic[name]["last_seen"]) > SILENT_S
    ]
    told = f"{len(quiet)} of {len(enrolled)} silent"
    if quiet:
        return warning(
            f"{told} for a day: {_names(quiet)}.",
            "Telephone them; `stillroom-client doctor --report` at the site says what is wrong.",
            told=told,
        )
    return ok(f"All {len(enrolled)} sites were heard within a day.", told=told)


def certificates(exam: Examination) -> Finding:
    """Sites whose certificate is about to end without having been renewed."""
    return certificates_finding(exam.sites, exam.now.timestamp())


def certificates_finding(sites: Sequence[SiteRecord], now: float) -> Finding:
    """What their ends mean. Pure."""
    ends = {s.name: s.not_after for s in sites if s.status == ENROLLED and s.not_after is not None}
    gone = sorted(name for name, end in ends.items() if end < now)
    soon = sorted(n for n, end in ends.items() if now <= end < now + SOON_DAYS * 86400)
    told = f"{len(gone)} expired, {len(soon)} within {SOON_DAYS} days, of {len(ends)}"
    if gone or soon:
        which = (
            f"expired: {_names(gone)}"
            if gone
            else f"ending within {SOON_DAYS} days: {_names(soon)}"
        )
        return warning(
            f"Certificates {which}.",
            "Their couriers are away or cannot renew; an expired one needs a new invitation.",
            "STR-201",
            told=told,
        )
    return ok(f"{len(ends)} certificates last more than {SOON_DAYS} days.", told=told)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


CHECKS: tuple[Check[Examination], ...] = (
    Check("registry", registry, ("server.toml",)),
    Check("log", log, ("consortium", "private keys")),
    Check("runs", runs, ("server.toml",)),
    Check("site certificates", certificates, ("registry",)),
    Check("silent sites", silent, ("registry",)),
)
