"""The folder of one run: its state, its records and its weights, and the lock of who works in it.

::

    RUN/lock                        held by the one process that works here
    RUN/state.json                  where the study is: replacing it is what commits a step
    RUN/round-<stage>-<NNNN>.json   every committed round, as its digest is in the log
    RUN/scores-<stage>-<NNNN>.json  scores of that round's model, where it was scored
    RUN/updates/                    what a study keeps to make rounds again (see ``retention``)
    RUN/weights/<sha256>.safetensors   models that state.json names; changes of them as <sha256>.delta
    RUN/memory/                     what aggregation carries from round to round
    RUN/events.jsonl  RUN/result.json
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from stillroom.common.canonical import file_digest
from stillroom.common.errors import ResourceError
from stillroom.server.rounds.state import RunState, damaged
from stillroom.server.store.journal import Journal
from stillroom.server.upload import sync_folder

STATE, RESULT, LOCK = "state.json", "result.json", "lock"
DRAFT = "result.draft.json"
"""``result.json`` before the log knows of it."""


class RunFolder:
    """One run on disk.

    Args:
        folder: Made when it does not exist.
        initial: Folder with the weights that the study's stages start from.
    """

    def __init__(self, folder: Path, initial: Path) -> None:
        self.journal = Journal(folder)
        self.weights = folder / "weights"
        self.memory = folder / "memory"
        self._initial = initial
        for made in (self.weights, self.memory):
            made.mkdir(exist_ok=True)

    def load(self, study: str) -> RunState | None:
        """The state of the last step; None where the study has not begun.

        Args:
            study: Digest of the study that is about to go on.

        Raises:
            TrustError: STR-514, damaged, or of another study.
        """
        try:
            value = self.journal.read(STATE)
        except ValueError as error:
            raise damaged() from error
        if value is None:
            return None
        state = RunState.from_json(value)
        if state.study != study:
            raise damaged()
        return state

    def save(self, state: RunState) -> None:
        """Commit ``state``: whatever happens after this call, the study goes on from here."""
        self.journal.write(STATE, state.as_json())

    def model(self, sha256: str) -> Path:
        """The file of a model: made here, or one that a stage starts from."""
        made = self.weights / f"{sha256}.safetensors"
        return made if made.exists() else self._initial / made.name

    def delta(self, sha256: str) -> Path:
        """The file of a model's change from the one before."""
        return self.weights / f"{sha256}.delta"

    def keep_only(self, names: Collection[str]) -> None:
        """Remove weights that are not among ``names`` (SHA-256).

        They are of rounds that are behind us, or of one that was never committed.
        """
        for path in self.weights.iterdir():
            if path.stem not in names:
                path.unlink(missing_ok=True)

    def write_round(self, stage: str, record: dict[str, Any]) -> None:
        """Write the record of a round; it counts once the state says that the round is closed."""
        self.journal.write(round_name(stage, record["round"]), record)

    def round_digest(self, stage: str, number: int) -> str:
        """SHA-256 of the file of a round's record."""
        return file_digest(self.journal.folder / round_name(stage, number))

    def write_scores(self, stage: str, number: int, scores: Mapping[str, Any]) -> None:
        """Write who scored a round's model, and how; apart, for the record is in the log."""
        self.journal.write(scores_name(stage, number), dict(scores))

    def draft(self, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """The result that is about to be published, and its digest; made once, whatever happens."""
        found = self.journal.read(DRAFT)
        if found is None:
            found = make()
            self.journal.write(DRAFT, found)
        return dict(found), file_digest(self.journal.folder / DRAFT)

    def publish_result(self) -> None:
        """Make the draft the result, in one step."""
        os.replace(self.journal.folder / DRAFT, self.journal.folder / RESULT)
        sync_folder(self.journal.folder)

    def rounds(self, stage: str, closed: int) -> list[dict[str, Any]]:
        """Records of rounds 1 to ``closed`` of a stage, each with its model's scores.

        Raises:
            TrustError: STR-514, one is missing or damaged.
        """
        try:
            found = [self.journal.read(round_name(stage, n)) for n in range(1, closed + 1)]
        except ValueError as error:
            raise damaged() from error
        if any(record is None for record in found):
            raise damaged()
        for number, record in enumerate(found, 1):
            scores = self.journal.read(scores_name(stage, number))
            if scores is not None:
                record["evaluation"] = scores
        return found


def scores_name(stage: str, number: int) -> str:
    """File name of the scores of a round's model."""
    return f"scores-{stage}-{number:04d}.json"


def round_name(stage: str, number: int) -> str:
    """File name of a round's record."""
    return f"round-{stage}-{number:04d}.json"


@contextlib.contextmanager
def claimed(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock. The system drops it with its holder, however that ends.

    Args:
        folder: Of a run.
        wait_s: How long to wait for a holder that is about to end.

    Raises:
        ResourceError: STR-512, another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + wait_s
        while not _locked(descriptor):
            if time.monotonic() >= end:
                raise ResourceError(
                    "Another process works in this run's folder.",
                    fix="Wait for it, or stop it with `stillroom-server run stop`.",
                    code="STR-512",
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def is_free(folder: Path) -> bool:
    """Whether nobody works in the folder at this moment."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def result_of(folder: Path) -> dict[str, Any] | None:
    """How a run ended; None while it has not."""
    try:
        found: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
    except FileNotFoundError:
        return None
    return found
