"""Checks 40 to 45: does a release follow from the log? Pure."""

from collections.abc import Iterator

from stillroom.common.errors import ContractError
from stillroom.common.log_entries import Release, parse_entry
from stillroom.common.tlog.merkle import leaf_hash
from stillroom.common.tlog.proof import Proof, parse_proof
from stillroom.server.attestation import (
    ENTRY_FILE,
    FOLDER,
    PROOF_FILE,
    STATEMENT_FILE,
    Statement,
    parse_statement,
    predicate_of,
    predicate_problems,
    subject_problems,
)
from stillroom.server.audit.case import Case
from stillroom.server.audit.findings import Problem, failed, said
from stillroom.server.audit.history import Run
from stillroom.server.audit.log_checks import prefix_problems
from stillroom.server.audit.published import Files

WEIGHTS, STUDY = "model.safetensors", "study.json"


def entry_of(files: Files) -> Release | None:
    """The log's entry that a release brings with it; None when it brings none."""
    try:
        found = parse_entry(files.read(ENTRY_FILE) or b"")
    except ContractError:
        return None
    return found if isinstance(found, Release) else None


def _proof(files: Files) -> Proof | None:
    try:
        return parse_proof(files.read(PROOF_FILE) or b"")
    except ValueError:
        return None


def _statement(files: Files) -> Statement | None:
    try:
        return parse_statement(files.read(STATEMENT_FILE) or b"")
    except ContractError:
        return None


def _run_of(case: Case, entry: Release) -> Run | None:
    """The run that a release is of: the last completed one of its study with that student."""
    found = [
        run
        for run in case.history.runs
        if run.started.study == entry.study
        and run.finish is not None
        and run.finish[1].status == "completed"
    ]
    found = [r for r in found if r.student() == entry.student_sha256] or found
    return found[-1] if found else None


def recorded(case: Case) -> Iterator[Problem] | None:
    """40: the log has the entry that the release brings."""
    return None if case.release is None else _recorded(case, case.release)


def _recorded(case: Case, files: Files) -> Iterator[Problem]:
    entry = entry_of(files)
    if entry is None:
        yield failed(ENTRY_FILE, "The release brings no entry of a log.")
        return
    places = [index for index, other in case.history.releases if other == entry]
    if not places:
        yield failed(ENTRY_FILE, "The log has no such entry: it does not know this release.")
    else:
        yield said(f"entry {places[0]}", f"Release {entry.name} is in the log.")


def proven(case: Case) -> Iterator[Problem] | None:
    """41: its proof holds offline, and the checkpoint it was proven under is of this log."""
    return None if case.release is None else _proven(case, case.release)


def _proven(case: Case, files: Files) -> Iterator[Problem]:
    proof, raw = _proof(files), files.read(ENTRY_FILE)
    if proof is None or raw is None:
        yield failed(PROOF_FILE, "There is no proof, or it is not one.")
        return
    try:
        head = proof.verify(leaf_hash(raw), case.log)
    except ValueError:
        yield failed(
            PROOF_FILE, "The proof does not hold: no log of this key has this entry there."
        )
        return
    yield from prefix_problems(PROOF_FILE, head.size, head.root, case.contents.tree)
    who = ", ".join(c.name for c in case.cosigned(proof.note, case.contents.size)[0]) or "no site"
    yield said(
        PROOF_FILE, f"Entry {proof.index} of {head.size}; that checkpoint was cosigned by {who}."
    )


def student(case: Case) -> Iterator[Problem] | None:
    """42: its weights are the last model of the distilling stage of a completed run."""
    return None if case.release is None else _student(case, case.release)


def _student(case: Case, files: Files) -> Iterator[Problem]:
    entry = entry_of(files)
    if entry is None:
        yield failed(ENTRY_FILE, "Without its entry nobody knows which weights these should be.")
        return
    digest = files.digest(WEIGHTS)
    if digest != entry.student_sha256:
        what = "The weights are not those that the log's entry names: they were changed."
        yield failed(WEIGHTS, what if digest else "The weights are missing.")
    run = _run_of(case, entry)
    if run is None:
        yield failed(ENTRY_FILE, "No run of this study was completed in the log.")
    elif run.student() != entry.student_sha256:
        what = "The student that was released is not the last model of the stage that leaves one."
        yield failed(f"run {run.started.run}", what)
    else:
        yield said(WEIGHTS, f"The weights are the last model of run {run.started.run}.")
    if files.digest(STUDY) != entry.study:
        yield failed(STUDY, "It is not the study that the log's entry names.")


def stated(case: Case) -> Iterator[Problem] | None:
    """43: its in-toto statement is the one that the log's entry names."""
    return None if case.release is None else _stated(case.release)


def _stated(files: Files) -> Iterator[Problem]:
    entry = entry_of(files)
    if _statement(files) is None:
        yield failed(STATEMENT_FILE, "There is no statement, or it is not one of ours.")
    elif entry is None or files.digest(STATEMENT_FILE) != entry.statement_sha256:
        yield failed(STATEMENT_FILE, "It is not the statement that the log's entry names.")


def subjects(case: Case) -> Iterator[Problem] | None:
    """44: the statement's subjects are the files of the release, all of them, unchanged."""
    return None if case.release is None else _subjects(case.release)


def _subjects(files: Files) -> Iterator[Problem]:
    statement = _statement(files)
    if statement is None:
        yield failed(STATEMENT_FILE, "Without a statement no file can be compared.")
        return
    names = [name for name in files.names() if not name.startswith(FOLDER + "/")]
    found = {name: files.digest(name) or "" for name in names}
    for where, what in subject_problems(statement, found):
        yield failed(where, what)
    yield said("", f"{len(names)} files were compared.")


def materials(case: Case) -> Iterator[Problem] | None:
    """45: what the statement says went in is what the log says was summed."""
    return None if case.release is None else _materials(case, case.release)


def _materials(case: Case, files: Files) -> Iterator[Problem]:
    statement, entry = _statement(files), entry_of(files)
    run = None if entry is None else _run_of(case, entry)
    if statement is None or run is None or run.student() is None:
        yield failed(
            STATEMENT_FILE, "Statement and log cannot be compared: one of them lacks the run."
        )
        return
    for what in predicate_problems(statement.predicate, predicate_of(run, case.log.name)):
        yield failed(STATEMENT_FILE, what)
    updates = sum(len(stage.updates) for stage in statement.predicate.stages)
    yield said("", f"{updates} updates of {len(statement.predicate.stages)} stages went in.")
