"""Studies of runs that go on, as an operator signed them, and whether enough sites are there for them."""

from collections.abc import Mapping, Sequence

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.errors import StillroomError
from stillroom.common.signed_study import SignedStudy, refuse_expired
from stillroom.common.study import PreparedStudy
from stillroom.server.consents import standings
from stillroom.server.doctor.examination import Examination
from stillroom.server.enrolment import load_consortium
from stillroom.server.store.members import ENROLLED
from stillroom.server.store.registry import Registry
from stillroom.server.store.runs import RUNNING, Run

HERE_S = 600.0
"""A courier that is there speaks every few seconds."""


def studies(exam: Examination) -> Finding:
    """Whether each is there, whole, signed by an operator in office and not past its last day."""
    if not exam.open_runs:
        return skipped("no run is open")
    for run in exam.open_runs:
        try:
            refuse_expired(load(exam, run).study.study.expires, exam.now.timestamp())
        except StillroomError as error:
            return failed(
                f"Run {run.name}: {error.what}",
                f"Put {run.study} back as it was signed. A study that was meant to change is another "
                "one: sign it, and start a new run.",
                error.code,
                told=error.code,
            )
    count = len(exam.open_runs)
    return ok(f"The studies of {count} open runs are as they were signed.", told=f"{count} hold")


def load(exam: Examination, run: Run) -> PreparedStudy:
    """A run's study, proven; raises TrustError and ConfigError."""
    if exam.config.consortium is None:
        return PreparedStudy.load(run.study)
    return SignedStudy.load(run.study, load_consortium(exam.config).operator_keys).prepared


def quorum(exam: Examination) -> Finding:
    """Whether enough sites are enrolled, and here, for a round of every run that is wanted."""
    if exam.config.registry is None:
        return skipped("there is no registry")
    wanted = [run for run in exam.open_runs if run.wanted == RUNNING]
    if not wanted:
        return skipped("no run is wanted")
    worst = ok(f"Enough sites for {len(wanted)} runs.", told="enough")
    for run in wanted:
        prepared = PreparedStudy.load(run.study)
        rules = prepared.study.study
        enrolled = [
            s.name for s in exam.sites if s.status == ENROLLED and s.name not in rules.held_out
        ]
        with Registry(exam.config.registry, read_only=True) as registry:
            given = standings(registry, prepared.digest, now=exam.now.timestamp())
        agreed = [name for name in enrolled if given[name] == "given"]
        heard = _judged(exam)
        here = None if heard is None else _here(agreed, heard, exam.now.timestamp())
        found = quorum_finding(run.name, rules.quorum.min_sites, enrolled, agreed, here)
        if found.outcome == "failed":
            return found
        worst = found if found.outcome == "warning" else worst
    return worst


def _judged(exam: Examination) -> Mapping[str, float] | None:
    """When sites were heard; None where that says nothing, because the edge is away or new."""
    edge = exam.edge
    up = None if edge is None else exam.now.timestamp() - edge.since
    if edge is None or up is None or not exam.serves or up < max(HERE_S, exam.config.connect_s):
        return None
    return edge.heard


def _here(sites: Sequence[str], heard: Mapping[str, float], now: float) -> list[str]:
    return [name for name in sites if now - heard.get(name, 0.0) <= HERE_S]


def quorum_finding(
    run: str, need: int, enrolled: Sequence[str], agreed: Sequence[str], here: Sequence[str] | None
) -> Finding:
    """What the numbers mean. Pure.

    Args:
        run: Its name.
        need: Sites that a round needs.
        enrolled: Sites that could train in it.
        agreed: Of them, those that have consented to its study.
        here: Of those, the ones that were heard just now; None where nobody can tell.
    """
    told = f"{need} needed, {len(enrolled)} enrolled, {len(agreed)} consented"
    if len(enrolled) < need:
        return failed(
            f"Run {run} needs {need} sites, and {len(enrolled)} are enrolled that may train.",
            "Enrol more (`stillroom-server site invite`), or sign a study with a smaller quorum.",
            "STR-306",
            told=told,
        )
    if len(agreed) < need:
        return warning(
            f"Run {run} needs {need} sites, and {len(agreed)} have consented to its study.",
            "Ask the others: `stillroom-client consent show` at the site says what is missing.",
            "STR-306",
            told=told,
        )
    if here is not None and len(here) < need:
        away = ", ".join(sorted(set(agreed) - set(here))[:5])
        return warning(
            f"Run {run} needs {need} sites, and {len(here)} are connected; away: {away}.",
            "Telephone them; `stillroom-client doctor --report` at the site says what is wrong.",
            "STR-306",
            told=f"{told}, {len(here)} here",
        )
    return ok(f"Enough sites for run {run}.", told=told)


CHECKS: tuple[Check[Examination], ...] = (
    Check("studies", studies, ("runs", "consortium")),
    Check("quorum", quorum, ("studies", "registry")),
)
