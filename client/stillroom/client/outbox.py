"""What is about to leave: made once, from bytes that were looked at as they were read.

The runner's file is read once, front to back. For ``fp32`` each block that was found good is the
block that is written; for the delta encodings what is written is computed from it. Whatever the
runner does with its file meanwhile changes nothing, or changes the digest, and then nothing leaves.

Error feedback (Seide et al. 2014, section 3; Karimireddy et al. 2019, algorithm 1): what rounding
took from an update is added to the next one. So an update is made once, and if it is ever made
again, then from the same things: ``record.json`` names, in one atomic step, the file that may leave
and the residual that is left of it, and keeps the residual that went into it.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillroom.client.changes import Terms, residual_bytes, write_change
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.streams import Copying
from stillroom.common.canonical import canonical_bytes, file_digest
from stillroom.common.errors import ResourceError
from stillroom.common.messages import UpdateRef
from stillroom.common.study import PreparedStudy
from stillroom.common.tensorfile import write_durably
from stillroom.common.update import check_update_file

RECORD = "record.json"
Name = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Residual = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,9}-[0-9a-f]{64}\.residual)?$")]
"""Round and digest of the file it is left of: two rounds may send the same bytes."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An update that may leave.

    Attributes:
        ref: What is told of it.
        path: Its file.
        norm: Of its weights; of their change where the encoding holds that.
    """

    ref: UpdateRef
    path: Path
    norm: float


class Record(BaseModel):
    """What was made last for a stage, and from what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: Annotated[int, Field(ge=1)]
    base: Name
    update: Name
    """Digest of the runner's file."""
    encoding: str
    sha256: Name
    """Of the file that may leave."""
    nbytes: Annotated[int, Field(ge=1)]
    norm: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    before: Residual = ""
    """Name of the residual that went in; empty for none."""
    after: Residual = ""
    """Name of the residual that is left."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """Updates of one site in one study; the courier's own folder, which the runner does not see.

    Attributes:
        folder: One folder in it for each stage.
        exchange: Where the runner's files and the models are.
        prepared: What they are held against.
    """

    folder: Path
    exchange: ExchangeFolder
    prepared: PreparedStudy

    @classmethod
    def below(cls, state: Path, exchange: ExchangeFolder, prepared: PreparedStudy) -> "Outbox":
        """The outbox of a study in ``courier_state``."""
        return cls(state / "outbox" / prepared.digest[:16], exchange, prepared)

    def seal(self, stage: str, number: int, update: UpdateRef) -> Sealed:
        """Make the file that may leave; what was made already is not made again.

        Dying before the record is replaced: the next call makes the same bytes from the same
        update, base and residual. Dying after it: the next call finds them.

        Args:
            stage: Stage of the update.
            number: Its round.
            update: The runner's file, as ``check_reply`` has found it to be; its base is in the
                exchange folder.

        Raises:
            ContractError: STR-300 to STR-303 as ``check_update_file`` says; STR-311, the update or
                its base is missing or not what its name says. Nothing of it stays here then.
            ResourceError: STR-503, the disk.
        """
        box, encoding = (
            self.folder / stage,
            self.prepared.study.stage_named(stage).exchange.encoding,
        )
        record = _read(box)
        if record is not None and _is_made(record, box, number, update, encoding):
            return _sealed(record, box)
        before = carried_over(record, number)
        if before and not self._is_residual(box / before, stage):
            before = ""  # a disk that lost it costs a little accuracy, and no round
        try:
            box.mkdir(parents=True, exist_ok=True)
            try:
                made = self._make(box, stage, number, update, before)
            except BaseException:
                _sweep(box, record)  # of a refused update nothing stays, not even in part
                raise
            write_durably(box / RECORD, canonical_bytes(made.model_dump()))
            _sweep(box, made)
        except OSError as error:
            raise ResourceError(
                "The courier's disk could not take an update.",
                fix="Free or mend the disk of courier_state.",
                code="STR-503",
            ) from error
        return _sealed(made, box)

    def _make(self, box: Path, stage: str, number: int, update: UpdateRef, before: str) -> Record:
        """Encode an update into ``box``, under the names by which the record will find it."""
        manifest = self.prepared.stages[stage].manifest
        encoding = self.prepared.study.stage_named(stage).exchange.encoding
        new, rest = box / "new.blob", box / "new.residual"
        with self.exchange.open_update(update.sha256) as source, new.open("wb") as out:
            if encoding == "fp32":
                copying = cast(BinaryIO, Copying(source, out))
                norm = check_update_file(copying, update, manifest, self.prepared)
                sha256, nbytes = update.sha256, update.nbytes
            else:
                made = write_change(
                    source,
                    out,
                    update=update,
                    terms=Terms(encoding, manifest, self.prepared.study.study.max_update_norm),
                    base=self.exchange.model(update.base),
                    before=box / before if before else None,
                    after=rest,
                )
                sha256, nbytes, norm = made.sha256, made.nbytes, made.norm
        # Not fsynced: its digest is looked at before it is used again, and it can be made again.
        os.replace(new, box / f"{sha256}.blob")
        after = "" if encoding == "fp32" else f"{number}-{sha256}.residual"
        if after:
            os.replace(rest, box / after)
        return Record(
            round=number,
            base=update.base,
            update=update.sha256,
            encoding=encoding,
            sha256=sha256,
            nbytes=nbytes,
            norm=norm,
            before=before,
            after=after,
        )

    def _is_residual(self, path: Path, stage: str) -> bool:
        try:
            return path.stat().st_size == residual_bytes(self.prepared.stages[stage].manifest)
        except OSError:
            return False


def carried_over(record: Record | None, number: int) -> str:
    """Name of the residual that goes into an update of round ``number``. Pure.

    After an earlier round: what that one left. For the same round once more, from another base or
    with another update: what went into it before, for nothing that was made then has counted.
    For a round before it: nothing, for this is another run.
    """
    if record is None or record.round > number:
        return ""
    return record.after if record.round < number else record.before


def _is_made(record: Record, box: Path, number: int, update: UpdateRef, encoding: str) -> bool:
    asked = (number, update.base, update.sha256, encoding)
    return (record.round, record.base, record.update, record.encoding) == asked and _intact(
        box / f"{record.sha256}.blob", record.sha256
    )


def _intact(path: Path, sha256: str) -> bool:
    """Whether a file of ours survived whatever happened since it was written."""
    try:
        return file_digest(path) == sha256
    except OSError:
        return False


def _sealed(record: Record, box: Path) -> Sealed:
    ref = UpdateRef(record.encoding, record.base, record.sha256, record.nbytes)
    return Sealed(ref, box / f"{record.sha256}.blob", record.norm)


def _read(box: Path) -> Record | None:
    """The record; None where there is none, or none of ours: then nothing was made yet."""
    try:
        return Record.model_validate_json((box / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def _sweep(box: Path, record: Record | None) -> None:
    """Remove what the record does not speak of: what was replaced, or never finished."""
    kept = {RECORD}
    if record is not None:
        kept |= {f"{record.sha256}.blob", record.before, record.after}
    for path in box.iterdir():
        if path.name not in kept:
            with contextlib.suppress(OSError):
                path.unlink()
