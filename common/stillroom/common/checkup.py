"""A checkup: independent checks of one machine, each with what was seen and what to do. Pure.

A check that raises is a finding like any other, never a traceback: an expected error is told with its
code, an unexpected one as ``STR-505``. A check whose ground is missing is skipped and says whose
failure it waits for, so that the first failed line is where to begin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from stillroom.common.errors import CODES, StillroomError

Outcome = Literal["ok", "warning", "failed", "skipped"]
EXIT_STATUS: Mapping[Outcome, int] = {"ok": 0, "skipped": 0, "warning": 1, "failed": 2}
Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to.

    Attributes:
        outcome: ``skipped`` where there was nothing to look at.
        saw: One sentence, for the people of this machine.
        do: What to do, in the imperative; empty where nothing is.
        code: A registered code; empty where nothing is wrong.
        told: Of ``saw``, what may be told to others: numbers, and words that are the same everywhere.
            No name, address, path or word of this machine's.
        facts: The same for programs; likewise.
    """

    outcome: Outcome
    saw: str
    do: str = ""
    code: str = ""
    told: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A code that is not registered is a mistake in the program."""
        if self.code and self.code not in CODES:
            raise ValueError(f"{self.code} is not a registered error code")


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One thing to look at.

    Attributes:
        name: Short, lower case; other checks and documents name it.
        look: Looks at the subject.
        needs: Checks without whose success this one cannot be made.
        unless: Checks whose own failure would make this one's answer worthless.
        part: Of the program that it is about; empty for all.
    """

    name: str
    look: Callable[[Subject], Finding]
    needs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    part: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A check's name and what it came to."""

    name: str
    finding: Finding

    def as_json(self) -> dict[str, Any]:
        """For programs of this machine; it names names."""
        f = self.finding
        return {
            "name": self.name,
            "outcome": f.outcome,
            "saw": f.saw,
            "do": f.do,
            "code": f.code,
            **({"facts": dict(f.facts)} if f.facts else {}),
        }


def ok(saw: str, told: str = "", **facts: Any) -> Finding:
    """Nothing to do."""
    return Finding("ok", saw, told=told, facts=facts)


def warning(saw: str, do: str, code: str = "", told: str = "", **facts: Any) -> Finding:
    """It works, and somebody should look."""
    return Finding("warning", saw, do, code, told, facts)


def failed(saw: str, do: str, code: str, told: str = "", **facts: Any) -> Finding:
    """It does not work."""
    return Finding("failed", saw, do, code, told, facts)


def skipped(why: str) -> Finding:
    """There is nothing to look at; ``why`` is the same everywhere."""
    return Finding("skipped", f"skipped: {why}", told=why)


def examine(checks: Sequence[Check[Subject]], subject: Subject) -> tuple[Result, ...]:
    """Make every check, in order."""
    results: list[Result] = []
    missing: dict[str, str] = {}
    broken: dict[str, str] = {}
    for check in checks:
        because = next((missing[name] for name in check.needs if name in missing), None)
        because = because or next((broken[n] for n in check.unless if n in broken), None)
        finding = (
            skipped(f"because {because} failed") if because is not None else _look(check, subject)
        )
        if finding.outcome == "failed":
            missing[check.name] = broken[check.name] = f'"{check.name}"'
        elif because is not None:
            missing[check.name] = because
        results.append(Result(check.name, finding))
    return tuple(results)


def worst(results: Sequence[Result]) -> int:
    """Exit status: 0 where nothing is wrong, 1 for warnings, 2 where something failed."""
    return max((EXIT_STATUS[r.finding.outcome] for r in results), default=0)


def report(results: Sequence[Result], *, title: str, head: Sequence[str] = ()) -> str:
    """A text that one may send away: outcomes, codes and numbers; no names, addresses or paths.

    Nothing is removed from what was seen: ``told`` and the texts of the codes are all there is.
    """
    lines = [title, *head, ""]
    for r in results:
        f = r.finding
        lines.append(f"{f.outcome:<8} {r.name:<24} {f.code:<8} {f.told}".rstrip())
    codes = sorted({r.finding.code for r in results if r.finding.code})
    if codes:
        lines += ["", *(f"{code}: {CODES[code]}" for code in codes)]
    return "\n".join(lines) + "\n"


def _look(check: Check[Subject], subject: Subject) -> Finding:
    try:
        return check.look(subject)
    except StillroomError as error:
        return failed(error.what, error.fix, error.code)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other checks are worth making
        return failed(
            f"This check itself failed ({type(error).__name__}).",
            "Tell the operator the name of this check and the code; the other checks hold.",
            "STR-505",
            told=f"the check crashed: {type(error).__name__}",
        )
