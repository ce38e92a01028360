"""What the log tells, put in order: members, runs, stages, rounds. Pure; judges only what has no place.

Walked once, in the order of the log. A study may be run more than once, and a run may be resumed:
a round that had no commit is then opened again, and what came before its last opening counts as
its history, not as its answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from stillroom.common.consent import Record, parse_record
from stillroom.common.errors import ContractError
from stillroom.common.log_entries import (
    Consent,
    ConsortiumOpened,
    Entry,
    Member,
    Operator,
    Refused,
    Release,
    RoundCommitted,
    RoundOpened,
    Scored,
    StageOpened,
    StudyFinished,
    StudyStarted,
    Update,
    Witnessed,
)


@dataclass(slots=True)
class Round:
    """One round.

    Attributes:
        number: From 1.
        openings: Every time sites were asked, with the entry's index.
        updates: What became of every answer, with the entry's index.
        commit: The one that made it count, with its index.
    """

    number: int
    openings: list[tuple[int, RoundOpened]] = field(default_factory=list)
    updates: list[tuple[int, Update]] = field(default_factory=list)
    commit: tuple[int, RoundCommitted] | None = None

    @property
    def invited(self) -> frozenset[str]:
        """Everybody who was asked, in any of its openings."""
        return frozenset(site for _, opening in self.openings for site in opening.invited)

    def answers(self) -> dict[str, tuple[int, Update]]:
        """The last word on each site before the commit."""
        end = self.commit[0] if self.commit else None
        return {u.site: (i, u) for i, u in self.updates if end is None or i < end}


@dataclass(slots=True)
class Stage:
    """One stage of a run; ``index`` is where it was opened."""

    index: int
    opened: StageOpened
    rounds: dict[int, Round] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """Digest of its last committed model; what it started from when there is none."""
        models = [r.commit[1].model_sha256 for r in self.rounds.values() if r.commit]
        made = [model for model in models if model is not None]
        return made[-1] if made else self.opened.initial_sha256


@dataclass(slots=True)
class Run:
    """One run of a study; ``index`` is where it began."""

    index: int
    started: StudyStarted
    stages: dict[str, Stage] = field(default_factory=dict)
    finish: tuple[int, StudyFinished] | None = None

    def student(self) -> str | None:
        """Digest of the last model of the last stage that leaves a student; None without one."""
        found = [s.model for s in self.stages.values() if s.opened.leaves == "student"]
        return found[-1] if found else None


@dataclass(slots=True)
class Given:
    """A consent or withdrawal in the log; ``record`` is None when it cannot be read."""

    index: int
    entry: Consent
    record: Record | None


@dataclass(slots=True)
class History:
    """Everything the log tells, in order. Pairs are (index, entry)."""

    consortia: list[tuple[int, ConsortiumOpened]] = field(default_factory=list)
    members: list[tuple[int, Member]] = field(default_factory=list)
    consents: list[Given] = field(default_factory=list)
    studies: list[tuple[int, StudyStarted]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    releases: list[tuple[int, Release]] = field(default_factory=list)
    witnessed: list[tuple[int, Witnessed]] = field(default_factory=list)
    operators: list[tuple[int, Operator]] = field(default_factory=list)
    scored: list[tuple[int, Scored]] = field(default_factory=list)
    refused: list[tuple[int, Refused]] = field(default_factory=list)
    strays: list[tuple[int, str]] = field(default_factory=list)
    """Entries that have no place, and why."""

    def keys_at(self, index: int) -> dict[str, str]:
        """Site -> signing key (hex) of every member in good standing just before ``index``."""
        keys: dict[str, str] = {}
        for place, member in self.members:
            if place >= index:
                break
            if member.act in {"revoked", "left"}:
                keys.pop(member.site, None)
            elif member.signing_key is not None:
                keys[member.site] = member.signing_key
        return keys

    def run(self, study: str, name: str | None = None) -> Run | None:
        """The last run of a study, or the last of that name."""
        found = [r for r in self.runs if r.started.study == study]
        found = [r for r in found if name is None or r.started.run == name]
        return found[-1] if found else None


def tell(entries: Iterable[tuple[int, Entry]]) -> History:
    """Put the entries of a log in order."""
    history = History()
    current: dict[str, Run] = {}
    for index, entry in entries:
        match entry:
            case ConsortiumOpened():
                history.consortia.append((index, entry))
            case Member():
                history.members.append((index, entry))
            case Consent():
                history.consents.append(Given(index, entry, _record(entry)))
            case StudyStarted():
                history.studies.append((index, entry))
                _start(history, current, index, entry)
            case Scored():
                history.scored.append((index, entry))
                if entry.study not in current:
                    history.strays.append((index, "scores a model of no study before it"))
            case StageOpened() | RoundOpened() | Update() | RoundCommitted() | StudyFinished():
                why = _place(current.get(entry.study), index, entry)
                if why:
                    history.strays.append((index, why))
            case Release():
                history.releases.append((index, entry))
            case Witnessed():
                history.witnessed.append((index, entry))
            case Operator():
                history.operators.append((index, entry))
            case Refused():
                history.refused.append((index, entry))
            case _:
                history.strays.append((index, "is of a kind this program does not know"))
    return history


def _record(entry: Consent) -> Record | None:
    try:
        return parse_record(entry.record.encode("utf-8"))
    except ContractError:
        return None


def _start(history: History, current: dict[str, Run], index: int, entry: StudyStarted) -> None:
    known = current.get(entry.study)
    if entry.act == "started":
        current[entry.study] = Run(index, entry)
        history.runs.append(current[entry.study])
    elif known is None or known.started.run != entry.run:
        history.strays.append((index, "goes on with a run that never began"))


def _place(
    run: Run | None,
    index: int,
    entry: StageOpened | RoundOpened | Update | RoundCommitted | StudyFinished,
) -> str:
    """Put an entry where it belongs in its run; why it cannot be when it cannot."""
    if run is None:
        return "belongs to a study that no entry before it starts"
    if isinstance(entry, StudyFinished):
        if entry.run != run.started.run:
            return "ends a run that is not the one under way"
        if run.finish is not None:
            return "ends a run a second time"
        run.finish = index, entry
        return ""
    if run.finish is not None and not (isinstance(entry, Update) and entry.status == "late"):
        return "comes after the end of its run"
    if isinstance(entry, StageOpened):
        return _open_stage(run, index, entry)
    stage = run.stages.get(entry.stage)
    if stage is None:
        return "belongs to a stage that was not opened"
    if isinstance(entry, RoundOpened):
        stage.rounds.setdefault(entry.round, Round(entry.round)).openings.append((index, entry))
        return ""
    found = stage.rounds.get(entry.round)
    if found is None:
        return "belongs to a round that was not opened"
    if isinstance(entry, Update):
        found.updates.append((index, entry))
        return ""
    if found.commit is not None:
        return "commits a round a second time"
    found.commit = index, entry
    return ""


def _open_stage(run: Run, index: int, entry: StageOpened) -> str:
    known = run.stages.get(entry.stage)
    if known is None:
        run.stages[entry.stage] = Stage(index, entry)
        return ""
    same = known.opened.model_copy(update={"time": entry.time}) == entry
    return "" if same else "opens a stage again, with other terms"
