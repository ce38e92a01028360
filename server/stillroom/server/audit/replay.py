"""Making a round's model again from what was kept, bit for bit: the sum, not the server's word for it.

What the log says is taken from the log: who was summed, in which order, with how many cases, from
which base. What was kept is believed only as far as its digests are those of the log. The rules of
the stage come from the prepared study, whose digest is the study's name. No torch is needed.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.canonical import file_digest
from stillroom.common.errors import StillroomError
from stillroom.common.study import PreparedStudy
from stillroom.server.audit.history import History, Round, Run, Stage
from stillroom.server.retention import BASE, FOLDER, FROM, STUDY, round_folder
from stillroom.server.rounds.aggregate import RoundSum
from stillroom.server.rounds.contributions import Contribution
from stillroom.server.rounds.memory import Memory


@dataclass(frozen=True, slots=True)
class Replayed:
    """One round made again.

    Attributes:
        stage: Its stage.
        round: Its number.
        updates: How many updates were summed.
        expected: Digest of the model, as the log has it.
        found: Digest of the model that was made; None where it could not be.
        why: Why it could not be; empty otherwise.
    """

    stage: str
    round: int
    updates: int
    expected: str
    found: str | None
    why: str = ""

    @property
    def identical(self) -> bool:
        """To the bit."""
        return self.found == self.expected


def replay(
    history: History, folder: Path, *, stage: str | None = None, number: int | None = None
) -> Iterator[Replayed]:
    """Make every committed round again whose updates were kept.

    Args:
        history: Of the log.
        folder: Of the run.
        stage: Only this stage.
        number: Only this round.

    Raises:
        StillroomError: The run's folder keeps no study, or one that is in no entry of the log.
    """
    prepared = _study(folder)
    run = history.run(prepared.digest)
    if run is None:
        raise StillroomError(
            "The log has no run of the study in this folder.", fix="Name another run or log."
        )
    yield from _rounds(run, prepared, folder, stage, number)


def _rounds(
    run: Run, prepared: PreparedStudy, folder: Path, wanted: str | None, number: int | None
) -> Iterator[Replayed]:
    for name, stage in run.stages.items():
        for turn in stage.rounds.values():
            if wanted not in {None, name} or number not in {None, turn.number}:
                continue
            kept = round_folder(folder, name, turn.number)
            if turn.commit is None or turn.commit[1].model_sha256 is None or not kept.is_dir():
                continue
            yield _again(prepared, name, stage, turn, kept)


def _study(folder: Path) -> PreparedStudy:
    try:
        return PreparedStudy.model_validate_json((folder / FOLDER / STUDY).read_bytes())
    except (OSError, ValueError) as error:
        raise StillroomError(
            "The run's folder keeps no updates.",
            fix='Only a study with `retain_updates = "last"` or "all" can be replayed.',
        ) from error


def _again(prepared: PreparedStudy, name: str, stage: Stage, turn: Round, kept: Path) -> Replayed:
    commit = turn.commit
    if commit is None or commit[1].model_sha256 is None:
        raise AssertionError("only rounds with a model are made again")
    order, expected = commit[1].order, commit[1].model_sha256
    try:
        contributions = list(_contributions(turn, order, kept))
        base = _base(turn, kept)
        with tempfile.TemporaryDirectory() as scratch:
            found = _sum(prepared, name, turn.number, contributions, base, kept, Path(scratch))
    except (StillroomError, OSError, ValueError, KeyError) as error:
        why = error.what if isinstance(error, StillroomError) else str(error)
        return Replayed(name, turn.number, len(order), expected, None, why)
    return Replayed(name, turn.number, len(order), expected, found)


def _base(turn: Round, kept: Path) -> str:
    base = file_digest(kept / BASE)
    if base not in {opening.base_sha256 for _, opening in turn.openings}:
        raise ValueError("the model that was kept is not the one the round started from")
    return base


def _contributions(turn: Round, order: Iterable[str], kept: Path) -> Iterator[Contribution]:
    answers = turn.answers()
    for site in order:
        _, update = answers[site]
        path = kept / f"{FROM}{site}"
        if update.sha256 is None or file_digest(path) != update.sha256:
            raise ValueError(f"the update of {site} that was kept is not the one in the log")
        yield Contribution(site, path, update.encoding, update.base_sha256 or "", update.samples)


def _sum(  # a round is all of these
    prepared: PreparedStudy,
    name: str,
    number: int,
    contributions: list[Contribution],
    base: str,
    kept: Path,
    scratch: Path,
) -> str:
    stage = prepared.study.stage_named(name)
    memory = Memory(scratch, name, number, last=number == stage.rounds)
    for path in kept.glob(f"{name}.*.safetensors"):
        shutil.copyfile(path, scratch / path.name)
    total = RoundSum(
        kept / BASE,
        base,
        prepared.stages[name].manifest,
        stage.exchange.encoding,
        stage.aggregation,
    )
    for contribution in contributions:
        total.add(contribution)
    made = total.finish(scratch, memory)
    return hashlib.sha256(made.path.read_bytes()).hexdigest()
