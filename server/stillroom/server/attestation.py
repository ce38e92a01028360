"""What a release is made of, as an in-toto statement (Statement v1): made, read, compared. Pure.

Subjects are the release's files; the predicate names the study, the log, and for every stage what
it started from, which updates were summed, in which round and from whom, and the commit that closed
it. Nothing in it is new: all of it is in the log, so an auditor recomputes it and compares.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ContractError
from stillroom.server.audit.history import Run, Stage

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:stillroom:attestation:distillation:v1"
FOLDER = "proof"
"""In the release: holds the three files below, which are about the release and not of it."""
STATEMENT_FILE, ENTRY_FILE, PROOF_FILE = (
    f"{FOLDER}/statement.json",
    f"{FOLDER}/entry.json",
    f"{FOLDER}/entry.tlog-proof",
)
MOST_BYTES = 64 << 20

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Sha256(_Frozen):
    """in-toto's DigestSet, with the one algorithm we use."""

    sha256: Digest


class Subject(_Frozen):
    """One file of the release (in-toto ResourceDescriptor)."""

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    digest: Sha256


class CountedUpdate(_Frozen):
    """One site's update that was summed."""

    round: Count
    site: str
    sha256: Digest


class StageInputs(_Frozen):
    """What one stage was made of."""

    stage: str
    recipe: str
    initial_sha256: Digest | None
    teachers: dict[str, Digest]
    """Stage -> digest of its last model."""
    rounds: Count
    """Committed."""
    commit_index: Count
    """Of the entry that committed its last round."""
    model_sha256: Digest | None
    """After its last round."""
    updates: tuple[CountedUpdate, ...]
    """In the order of rounds and, within a round, of summation; those without a file are left out."""


class StudyName(_Frozen):
    """Which study."""

    name: str
    digest: Sha256


class Predicate(_Frozen):
    """What the subjects follow from."""

    log: str
    """The log's origin."""
    run: str
    study: StudyName
    student_sha256: Digest
    stages: tuple[StageInputs, ...]


class Statement(_Frozen):
    """The whole statement."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        STATEMENT_TYPE
    )
    subject: Annotated[tuple[Subject, ...], Field(min_length=1)]
    predicateType: Literal["urn:stillroom:attestation:distillation:v1"] = PREDICATE_TYPE  # noqa: N815
    predicate: Predicate

    def to_bytes(self) -> bytes:
        """Canonical JSON: the form that the log's entry names by digest."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


def predicate_of(run: Run, origin: str) -> Predicate:
    """What a run's entries say a release of it is made of.

    Raises:
        ContractError: STR-300, the run has no distilled model.
    """
    student = run.student()
    if student is None:
        raise ContractError(
            "The run has distilled no student.", fix="Release a run that was completed."
        )
    return Predicate(
        log=origin,
        run=run.started.run,
        study=StudyName(name=run.started.name, digest=Sha256(sha256=run.started.study)),
        student_sha256=student,
        stages=tuple(_inputs(name, stage) for name, stage in run.stages.items()),
    )


def make_statement(files: Mapping[str, str], predicate: Predicate) -> Statement:
    """The statement of a release.

    Args:
        files: Path in the release -> SHA-256, without those in ``proof/``.
        predicate: As ``predicate_of`` made it.
    """
    subjects = tuple(Subject(name=n, digest=Sha256(sha256=d)) for n, d in sorted(files.items()))
    return Statement(subject=subjects, predicate=predicate)


def parse_statement(data: bytes) -> Statement:
    """Read a statement.

    Raises:
        ContractError: STR-300, it is not one of ours, or not spelt canonically.
    """
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("too long")
        statement = Statement.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        raise _broken() from error
    if statement.to_bytes() != data:
        raise _broken()
    return statement


def subject_problems(statement: Statement, files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where the files of a release are not the statement's subjects: (path, what is wrong)."""
    named = {subject.name: subject.digest.sha256 for subject in statement.subject}
    if len(named) != len(statement.subject):
        yield STATEMENT_FILE, "It names a file twice."
    for name, digest in named.items():
        if name not in files:
            yield name, "The statement names this file and it is not there."
        elif files[name] != digest:
            yield name, "The file has another digest than the statement says: it was changed."
    for name in sorted(files.keys() - named.keys()):
        yield name, "The statement does not name this file: it was put in later."


def predicate_problems(found: Predicate, expected: Predicate) -> Iterator[str]:
    """Where a predicate does not say what the log says."""
    for name in ("log", "run", "study", "student_sha256"):
        if getattr(found, name) != getattr(expected, name):
            yield f"Its {name} is not that of the log."
    mine = {stage.stage: stage for stage in found.stages}
    theirs = {stage.stage: stage for stage in expected.stages}
    for name in sorted(mine.keys() ^ theirs.keys()):
        yield f"Stage {name} is in only one of statement and log."
    for name in mine.keys() & theirs.keys():
        parts = [
            p
            for p in StageInputs.model_fields
            if getattr(mine[name], p) != getattr(theirs[name], p)
        ]
        if parts:
            yield f"Stage {name} differs from the log in {', '.join(parts)}."


def _inputs(name: str, stage: Stage) -> StageInputs:
    turns = [turn for turn in stage.rounds.values() if turn.commit is not None]
    updates = []
    for turn in turns:
        answers = turn.answers()
        for site in turn.commit[1].order if turn.commit else ():
            digest = answers[site][1].sha256 if site in answers else None
            if digest is not None:
                updates.append(CountedUpdate(round=turn.number, site=site, sha256=digest))
    commits = [turn.commit[0] for turn in turns if turn.commit]
    return StageInputs(
        stage=name,
        recipe=stage.opened.recipe,
        initial_sha256=stage.opened.initial_sha256,
        teachers=dict(stage.opened.teachers),
        rounds=len(turns),
        commit_index=commits[-1] if commits else stage.index,
        model_sha256=stage.model,
        updates=tuple(updates),
    )


def _broken() -> ContractError:
    return ContractError(
        "This is not a statement about a release of ours.",
        fix="Get the release again; the statement is proof/statement.json in it.",
    )
