"""What an audit says: one finding per thing looked at, each under a number that never changes. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from stillroom.common.markup import plural

Result = Literal["ok", "warning", "FAILED"]
_RANK: dict[Result, int] = {"ok": 0, "warning": 1, "FAILED": 2}
EXIT_STATUS: dict[Result, int] = {"ok": 0, "warning": 1, "FAILED": 3}
"""3 is the status of every failure of trust (``common.errors``)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        number: Of the check, as docs/auditors/checks.md lists it.
        check: What was looked at, in a few words.
        result: ``warning`` is true and must be known; ``FAILED`` means that something here lies.
        where: File, entry or line; empty for all of them.
        meaning: What that means, in a sentence.
    """

    number: int
    check: str
    result: Result
    where: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What a check found, before it has its number.

    Attributes:
        result: ``ok`` for something worth saying that is as it should be.
        where: As in ``Finding``.
        meaning: As in ``Finding``.
    """

    result: Result
    where: str
    meaning: str


def failed(where: str, meaning: str) -> Problem:
    """Something does not hold."""
    return Problem("FAILED", where, meaning)


def warned(where: str, meaning: str) -> Problem:
    """Something holds and must be known."""
    return Problem("warning", where, meaning)


def said(where: str, meaning: str) -> Problem:
    """Something holds and is worth saying."""
    return Problem("ok", where, meaning)


def worst(findings: Iterable[Finding]) -> Result:
    """The worst result; ok when there is none."""
    return max((finding.result for finding in findings), key=_RANK.__getitem__, default="ok")


def verdict(findings: Iterable[Finding]) -> str:
    """The last line of a verification."""
    count: dict[Result, int] = {"ok": 0, "warning": 0, "FAILED": 0}
    for finding in findings:
        count[finding.result] += 1
    said_so = {
        "ok": "Everything that was checked holds.",
        "warning": "Nothing that was checked is false; read the warnings.",
        "FAILED": "Something here is not what it should be. Do not rely on this log or release.",
    }
    worst_of = "FAILED" if count["FAILED"] else "warning" if count["warning"] else "ok"
    warnings = plural(count["warning"], "warning")
    return f"{count['ok']} ok, {warnings}, {count['FAILED']} FAILED. {said_so[worst_of]}"
