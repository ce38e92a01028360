"""Registry, log, runs and sites, as they lie on the disk."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.tlog.checkpoint import Checkpoint, open_checkpoint
from stillroom.common.tlog.folder import CHECKPOINT, LogFolder
from stillroom.common.tlog.merkle import verify_consistency
from stillroom.server.doctor.examination import Examination, is_whole
from stillroom.server.log import Log
from stillroom.server.logbook import open_logbook
from stillroom.server.run_status import Standing, standing
from stillroom.server.store.members import ENROLLED, SiteRecord
from stillroom.server.store.runs import Runs

SOON_DAYS = 7
SILENT_S = 24 * 3600.0
NEWEST = (
    "Put back the newest copy of the log (docs/operators/log.md); `stillroom-audit verify` says what "
    "a copy holds."
)
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
    if path.exists() and not is_whole(path):
        return failed(
            "The registry's file is damaged.",
            "Restore it from a backup; the log says what has changed since.",
            "STR-101",
            told="damaged",
        )
    counts = Counter(site.status for site in exam.sites)
    said = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "empty"
    return ok(f"Whole; sites: {said}.", told=said)


def flower(exam: Examination) -> Finding:
    """Flower's own state, where it is a file."""
    if exam.config.registry is not None:
        return skipped("Flower keeps its state in memory here")
    path = Path(exam.config.database)
    if not path.exists():
        if exam.edge is None:
            return ok("Flower's state will be made on the first start.", told="not there yet")
        return failed(
            "Flower's state is gone: it knows no site any more.",
            f"Restore {path}, or let every site in again (`stillroom-server site register`).",
            "STR-101",
            told="gone",
        )
    if not is_whole(path):
        return failed(
            "The file of Flower's state is damaged.",
            f"Restore {path}; or move it away, start again, and let every site in again "
            "(`stillroom-server site register`).",
            "STR-101",
            told="damaged",
        )
    return ok("Flower's state is whole.", told="whole")


def log(exam: Examination) -> Finding:
    """Whether what is published is what was promised, to the last entry, and what sites vouched for."""
    book = open_logbook(exam.config)
    if book is None:
        return skipped("the consortium has no log")
    found = log_finding(book.log)
    if found.outcome == "failed":
        return found
    if found.told == "empty" and any(site.status == ENROLLED for site in exam.sites):
        # Every approval is an entry: it can be empty only before the first.
        return failed("The log is gone, and its guard too.", NEWEST, "STR-221", told="gone")
    head = _checkpoint(book.log, book.log.guard)
    size = 0 if head is None else head.size
    further = [site for site, note in book.cosigned.newest().items() if size < _size(note.text)]
    if further:
        return failed(
            f"{further[0]} has vouched for more entries than the log has: it was put back.",
            NEWEST,
            "STR-221",
            told=f"{len(further)} sites have vouched for more",
        )
    return found


def _size(text: str) -> int:
    try:
        return Checkpoint.parse(text).size
    except ValueError:
        return 0


def log_finding(kept: Log) -> Finding:
    """What published checkpoint, guard and tiles say together. Reads, changes nothing."""
    try:
        published = _checkpoint(kept, kept.folder / CHECKPOINT)
        promised = _checkpoint(kept, kept.guard)
    except ValueError:
        return failed(
            "The log's checkpoint or its guard is damaged, or another key signed it.",
            "Put both back from the newest copy (docs/operators/log.md); delete nothing.",
            "STR-221",
            told="checkpoint damaged",
        )
    if published is None and promised is None:
        return ok("The log is empty.", told="empty")
    if promised is None or not _continues(kept, published, promised):
        return failed(
            "The log does not continue what was promised of it.",
            NEWEST,
            "STR-221",
            told="does not continue the guard",
        )
    shown = 0 if published is None else published.size
    behind = promised.size - shown
    if behind:
        return warning(
            f"{shown} entries are published, {behind} more are promised.",
            "Start the server: it finishes the append that was cut short.",
            told=f"{behind} not published yet",
        )
    return ok(f"{shown} entries, as promised.", told=f"{shown} entries")


def _continues(kept: Log, published: Checkpoint | None, promised: Checkpoint) -> bool:
    """Whether the tiles are those of ``promised``, and begin with what is published."""
    if published is not None and published.size > promised.size:
        return False
    try:
        tree = LogFolder(kept.folder, promised.size)
        if tree.root() != promised.root:
            return False
        if published is None or published.size == 0:
            return True
        if published.size == promised.size:
            return published.root == promised.root
        return verify_consistency(
            published.size,
            published.root,
            promised.size,
            promised.root,
            tree.consistency(published.size),
        )
    except ValueError:
        return False


def _checkpoint(kept: Log, path: Path) -> Checkpoint | None:
    """What is signed there; None where there is no file. ValueError: it is damaged."""
    try:
        return open_checkpoint(path.read_bytes(), kept.verifier)[0]
    except FileNotFoundError:
        return None


def runs(exam: Examination) -> Finding:
    """What is wanted, and what of it goes on."""
    if not exam.config.runs.exists():
        return ok("No run yet.", told="none")
    if not is_whole(exam.config.runs):
        return failed(
            "The table of runs is damaged.",
            f"Restore {exam.config.runs} from a backup. Without one move it away: no folder of a run "
            "is lost, and open runs cannot be resumed.",
            "STR-101",
            told="damaged",
        )
    with Runs(exam.config.runs, read_only=True) as table:
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
    if exam.edge is None:
        return skipped("the edge has not run yet")
    return silent_finding(exam.sites, exam.edge.heard, exam.now.timestamp())


def silent_finding(sites: Sequence[SiteRecord], heard: Mapping[str, float], now: float) -> Finding:
    """What the last sights of them mean; one that was never heard counts from its approval. Pure."""
    last = {site.name: site.changed_at for site in sites if site.status == ENROLLED}
    last = {name: heard.get(name, at) for name, at in last.items()} or dict(heard)
    enrolled = sorted(last)
    quiet = [name for name in enrolled if now - last[name] > SILENT_S]
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
    Check("Flower's state", flower, ("server.toml", "state folder")),
    Check("log", log, ("consortium", "private keys", "state folder", "registry")),
    Check("runs", runs, ("server.toml", "state folder"), unless=("processes", "edge port")),
    Check("site certificates", certificates, ("registry",)),
    Check("silent sites", silent, ("registry",)),
)
