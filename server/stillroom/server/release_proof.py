"""What lets anybody check a release without us: its statement, the log's entry about it, the proof.

The statement says what the release's files are and what they follow from; the entry names the statement
and is durable before the proof is written; the proof is of that entry, under the log's checkpoint.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from stillroom.common.canonical import file_digest
from stillroom.common.errors import ConfigError
from stillroom.common.log_entries import UNSTAMPED, Release
from stillroom.common.tensorfile import write_durably
from stillroom.common.tlog.folder import LogFolder, read_checkpoint
from stillroom.server.attestation import (
    ENTRY_FILE,
    FOLDER,
    PROOF_FILE,
    STATEMENT_FILE,
    make_statement,
    predicate_of,
)
from stillroom.server.audit.history import tell
from stillroom.server.logbook import Logbook


def prove_release(
    book: Logbook,
    release: Path,
    study: str,
    *,
    run: str | None = None,
    settle: Callable[[], None] = lambda: None,
) -> int:
    """Write ``proof/`` into a release that is otherwise complete.

    Args:
        book: The consortium's log.
        release: Its folder.
        study: Digest of the study.
        run: Name of the run; the study's last one when left out.
        settle: Called between entry and proof; may wait for sites to cosign the log.

    Returns:
        The index of the log's entry.

    Raises:
        ConfigError: STR-108, the log has no such run, or it has not ended.
        ContractError: STR-300, it has no student.
        TrustError, ResourceError: As ``Logbook.note``.
    """
    found = tell(book.entries()).run(study, run)
    if found is None or found.finish is None or found.finish[1].status != "completed":
        raise ConfigError(
            "The log has no completed run of this study.",
            fix="Build the release of a run that this server's log knows.",
            code="STR-108",
        )
    predicate = predicate_of(found, book.log.origin)
    statement = make_statement(files_of(release), predicate).to_bytes()
    (index,) = book.note(
        Release(
            time=UNSTAMPED,
            study=study,
            name=found.started.name,
            statement_sha256=hashlib.sha256(statement).hexdigest(),
            student_sha256=predicate.student_sha256,
        )
    )
    settle()
    head, note = read_checkpoint(book.log.folder, book.log.verifier)
    folder = LogFolder(book.log.folder, head.size)
    (release / FOLDER).mkdir(exist_ok=True)
    write_durably(release / STATEMENT_FILE, statement)
    write_durably(release / ENTRY_FILE, folder.entry(index))
    write_durably(release / PROOF_FILE, folder.proof(index, note).to_bytes())
    return index


def files_of(release: Path) -> dict[str, str]:
    """Path in the release -> SHA-256, of everything but the proof."""
    paths = ((p, p.relative_to(release).as_posix()) for p in release.rglob("*") if p.is_file())
    return {
        name: file_digest(path) for path, name in sorted(paths) if not name.startswith(f"{FOLDER}/")
    }
