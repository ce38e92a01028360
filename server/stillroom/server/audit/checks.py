"""Every check under its number, and all of them in a row. Pure.

A number never changes its meaning; docs/auditors/checks.md explains each. A check returns None when
it was given nothing to look at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stillroom.server.audit import (
    ledger_checks,
    log_checks,
    people_checks,
    release_checks,
    round_checks,
)
from stillroom.server.audit.case import Case, Told
from stillroom.server.audit.findings import Finding, Problem

Looked = TypeVar("Looked", bound=Told)


@dataclass(frozen=True, slots=True)
class Check(Generic[Looked]):
    """One numbered check.

    Attributes:
        number: As in docs/auditors/checks.md.
        title: What is looked at.
        look: Yields what it found.
        holds: What it means that nothing was found.
    """

    number: int
    title: str
    look: Callable[[Looked], Iterator[Problem] | None]
    holds: str


LOG_CHECKS: tuple[Check[Case], ...] = (
    Check(1, "checkpoint", log_checks.checkpoint, "The log signed it."),
    Check(2, "entries", log_checks.bundles, "Every entry is the one that was hashed."),
    Check(3, "tiles", log_checks.tiles, "Every hash is what the entries below it give."),
    Check(4, "root", log_checks.root, "The entries give the root that was signed."),
    Check(5, "other files", log_checks.leftovers, "Nothing else lies in the log."),
    Check(6, "cosignatures", log_checks.cosigned, "They hold."),
    Check(7, "quorum of witnesses", log_checks.quorum, "Enough sites cosigned."),
    Check(8, "checkpoints seen elsewhere", log_checks.seen, "They are of this log."),
    Check(9, "recorded checkpoints", log_checks.witnessed, "The log records none."),
    Check(
        10,
        "spelling",
        log_checks.spelling,
        "Every entry is of a known kind and spelt as it must be.",
    ),
    Check(11, "times", log_checks.times, "They do not go back."),
    Check(12, "consortium", log_checks.description, "The log names this description."),
    Check(20, "members", people_checks.members, "Sites came and went in order."),
    Check(21, "consents", people_checks.consents, "All are signed."),
    Check(22, "studies", people_checks.studies, "No study ran."),
    Check(23, "order of entries", people_checks.places, "Every entry belongs to one before it."),
    Check(
        30, "rounds", round_checks.sequence, "They are consecutive, each opened and committed once."
    ),
    Check(31, "answers", round_checks.answers, "All came from sites that were asked, one each."),
    Check(32, "consent to what counts", people_checks.agreed, "Every site had agreed by then."),
    Check(33, "sums", round_checks.summation, "What was summed is what was admitted."),
    Check(34, "chain of models", round_checks.chain, "Each follows from the one before."),
    Check(35, "teachers", round_checks.teachers, "They are last models of stages that were over."),
    Check(36, "participation", round_checks.participation, "No round was committed."),
    Check(37, "ends of runs", round_checks.ends, "They say what the rounds gave."),
    Check(38, "refusals", people_checks.refusals, "None."),
    Check(40, "release: entry", release_checks.recorded, "It is in the log."),
    Check(41, "release: proof", release_checks.proven, "It holds."),
    Check(42, "release: student", release_checks.student, "It is the run's."),
    Check(43, "release: statement", release_checks.stated, "It is the one the log names."),
    Check(44, "release: files", release_checks.subjects, "They are unchanged."),
    Check(45, "release: inputs", release_checks.materials, "They are what the log says."),
)
LEDGER_CHECKS: tuple[Check[Told], ...] = (
    Check(50, "ledger: chain", ledger_checks.chains, "It holds."),
    Check(51, "ledger: nothing hidden", ledger_checks.hidden, "All that left is in the log."),
    Check(52, "ledger: nothing invented", ledger_checks.unsent, "All that is in the log left."),
    Check(53, "ledger: same numbers", ledger_checks.agreeing, "Sizes and cases agree."),
)


CHECKS: tuple[Check[Any], ...] = (*LOG_CHECKS, *LEDGER_CHECKS)
"""All of them, in the order of their numbers."""


def verify(case: Case) -> list[Finding]:
    """Every finding of every check that had something to look at, in order of numbers."""
    found = [finding for check in LOG_CHECKS for finding in apply(check, case)]
    return found + compare(case)


def compare(told: Told) -> list[Finding]:
    """The findings of the checks that lay ledgers beside the log."""
    return [finding for check in LEDGER_CHECKS for finding in apply(check, told)]


def apply(check: Check[Looked], case: Looked) -> list[Finding]:
    """One check's findings; one that says it holds when it found nothing worth saying."""
    problems = check.look(case)
    if problems is None:
        return []
    found = [Finding(check.number, check.title, p.result, p.where, p.meaning) for p in problems]
    return found or [Finding(check.number, check.title, "ok", "", check.holds)]


def not_made(case: Case) -> list[Check[Any]]:
    """Checks that were given nothing to look at."""
    groups: dict[int, object] = {8: case.seen, **dict.fromkeys(range(40, 46), case.release)}
    groups |= dict.fromkeys(range(50, 54), case.ledgers)
    return [check for check in CHECKS if check.number in groups and not groups[check.number]]
