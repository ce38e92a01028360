"""Checks 50 to 53: does what the sites wrote down agree with what the server wrote down? Pure."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from stillroom.common.log_entries import Update
from stillroom.server.audit.case import Told
from stillroom.server.audit.findings import Problem, failed, said, warned
from stillroom.server.audit.history import History, Run
from stillroom.server.audit.ledgers import Ledger

Key = tuple[str, str, int, str]
"""Study, stage, round, digest of the file."""


@dataclass(slots=True)
class Compared:
    """One ledger beside the log.

    Attributes:
        site: Whose it is.
        pairs: Files in both, with the line and the entry's index.
        hidden: (line, what it means) for files that left and have no entry.
        unsent: (index, update) for entries whose file never left.
        differing: (line, index, what differs).
        unsure: (line, what it means) for files that left and cannot be judged yet.
    """

    site: str
    pairs: list[tuple[int, int]] = field(default_factory=list)
    hidden: list[tuple[int, str]] = field(default_factory=list)
    unsent: list[tuple[int, Update]] = field(default_factory=list)
    differing: list[tuple[int, int, str]] = field(default_factory=list)
    unsure: list[tuple[int, str]] = field(default_factory=list)


Updates = dict[str, list[tuple[int, Update]]]
"""Site -> its answers in the log, each with its index."""


def updates_by_site(history: History) -> Updates:
    """Every answer in the log, by site."""
    found: Updates = {}
    for run in history.runs:
        for stage in run.stages.values():
            for turn in stage.rounds.values():
                for index, update in turn.updates:
                    found.setdefault(update.site, []).append((index, update))
    return found


def site_of(ledger: Ledger, updates: Updates) -> str | None:
    """Whose ledger this is: as the auditor said, or the one site whose digests are in it."""
    if ledger.site is not None:
        return ledger.site
    contents = {line.content for line in ledger.sent}
    counts = Counter(
        {site: sum(u.sha256 in contents for _, u in mine) for site, mine in updates.items()}
    )
    best = counts.most_common(2)
    if not best or best[0][1] == 0 or (len(best) > 1 and best[1][1] == best[0][1]):
        return None
    return best[0][0]


def compare(ledger: Ledger, history: History, site: str, updates: Updates, end: str) -> Compared:
    """A ledger beside the log, in both directions.

    Args:
        ledger: Of the site.
        history: What the log tells.
        site: Whose ledger it is.
        updates: As ``updates_by_site`` gives them.
        end: Time of the log's last entry; what left after it cannot be in it.
    """
    result = Compared(site)
    mine = updates.get(site, [])
    by_key: dict[Key, list[tuple[int, Update]]] = {}
    for index, update in mine:
        if update.sha256 is not None:
            key = (update.study, update.stage, update.round, update.sha256)
            by_key.setdefault(key, []).append((index, update))
    sent = {line.key for line in ledger.sent}
    for line in ledger.sent:
        found = by_key.get(line.key)
        if found:
            index, update = found[-1]
            result.pairs.append((line.line, index))
            for what in _differences(line.bytes, dict(line.samples), update):
                result.differing.append((line.line, index, what))
            continue
        others = [u for _, u in mine if (u.study, u.stage, u.round) == line.key[:3]]
        place = f"stage {line.stage}, round {line.round}"
        if line.time is not None and line.time > datetime.fromisoformat(end):
            result.unsure.append(
                (line.line, f"A file for {place} left after the log's last entry.")
            )
        elif any(u.status in {"late", "failed"} and u.sha256 is None for u in others):
            what = f"A file for {place} left; the log says that no answer of {site} came in time."
            result.unsure.append((line.line, what))
        elif _is_open(history, line.study, line.stage, line.round):
            result.unsure.append((line.line, f"A file for {place} left; that round is not over."))
        else:
            what = f"A file for {place} left, and the log has no entry for it: the server hid it."
            if any(u.sha256 for u in others):
                what = f"The file that left for {place} is not the one that the log names."
            result.hidden.append((line.line, what))
    result.unsent = [(i, u) for key, found in by_key.items() if key not in sent for i, u in found]
    return result


def _differences(size: int, samples: dict[str, int], update: Update) -> Iterator[str]:
    if update.bytes != size:
        yield f"{size} bytes left and {update.bytes} were written down"
    if update.status == "admitted" and dict(update.samples) != samples:
        yield "the cases that count are not those the site told"


def _is_open(history: History, study: str, stage: str, number: int) -> bool:
    run: Run | None = history.run(study)
    if run is None or stage not in run.stages or run.finish is not None:
        return False
    turn = run.stages[stage].rounds.get(number)
    return turn is not None and turn.commit is None


def chains(case: Told) -> Iterator[Problem] | None:
    """50: each ledger's own chain holds."""
    return _chains(case) if case.ledgers else None


def _chains(case: Told) -> Iterator[Problem]:
    for ledger in case.ledgers:
        for line, what in ledger.problems:
            yield failed(f"{ledger.name}, line {line}", f"The line {what}.")
        if ledger.torn:
            yield warned(
                ledger.name, "Its last line is unfinished: nothing left on the strength of it."
            )
        if not ledger.problems:
            what = (
                f"{ledger.lines} lines hold; last {ledger.head[:16]}…, {ledger.refused} refusals."
            )
            yield said(ledger.name, what)


def beside_log(case: Told) -> list[tuple[Ledger, Compared | None]]:
    """Every ledger of a case beside its log; None where nobody can tell whose it is."""
    numbered = list(case.contents.numbered())
    end = numbered[-1][1].time if numbered else "1970-01-01T00:00:00.000Z"
    updates = updates_by_site(case.history)
    found: list[tuple[Ledger, Compared | None]] = []
    for ledger in case.ledgers:
        site = site_of(ledger, updates)
        beside = None if site is None else compare(ledger, case.history, site, updates, end)
        found.append((ledger, beside))
    return found


def hidden(case: Told) -> Iterator[Problem] | None:
    """51: every file that left a site has its entry in the log."""
    return _hidden(case) if case.ledgers else None


def _hidden(case: Told) -> Iterator[Problem]:
    for ledger, found in beside_log(case):
        if found is None:
            what = "Nothing in it is in the log, so nobody can tell whose it is; name the site."
            yield (failed if ledger.sent else warned)(ledger.name, what)
            continue
        for line, what in found.hidden:
            yield failed(f"{ledger.name}, line {line}", what)
        for line, what in found.unsure:
            yield warned(f"{ledger.name}, line {line}", what)
        if not found.hidden:
            yield said(
                ledger.name, f"{len(found.pairs)} files that left {found.site} are in the log."
            )


def unsent(case: Told) -> Iterator[Problem] | None:
    """52: every file that the log ascribes to a site left that site."""
    return _unsent(case) if case.ledgers else None


def _unsent(case: Told) -> Iterator[Problem]:
    for _, found in beside_log(case):
        if found is None:
            continue
        for index, update in found.unsent:
            what = (
                f"The log has an update of {found.site} for stage {update.stage}, round "
                f"{update.round} that never left it, by its own ledger."
            )
            yield failed(f"entry {index}", what)


def agreeing(case: Told) -> Iterator[Problem] | None:
    """53: of files in both, size and cases are the same."""
    return _agreeing(case) if case.ledgers else None


def _agreeing(case: Told) -> Iterator[Problem]:
    for ledger, found in beside_log(case):
        for line, index, what in found.differing if found else ():
            yield failed(
                f"{ledger.name}, line {line}; entry {index}", f"Ledger and log differ: {what}."
            )
