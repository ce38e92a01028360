"""The ledger: a site's own append-only record of what left it, and of what was refused.

One JSON object a line, each with the SHA-256 of the line before it, so that a line changed,
removed or put in between is found. A line is on the disk before ``append`` returns; the gate sends
nothing before that. The chain cannot show that lines are missing at its *end*: for that, keep the
last line's hash elsewhere (``stillroom-client ledger verify`` prints it).
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import CODES, ResourceError, TrustError

NAME = "ledger.jsonl"
"""In the courier's own folder."""
FIRST = "0" * 64
"""What the first line has in place of the hash of a line before it."""
LONGEST = 1 << 20
"""Bytes of a line; an entry of a study with a hundred labels has about 20 KiB."""

Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Count = Annotated[int, Field(ge=0)]


class Entry(BaseModel):
    """One thing that happened at the gate."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    """When, UTC, by this machine's clock."""
    kind: Literal["sent", "refused", "withheld", "task", "paused", "resumed"]
    """``task``: the server asked for work. ``sent``: this may leave, and does next. ``refused``: the
    gate stopped a reply or a request. ``withheld``: the server wanted a reply no more. ``paused``,
    ``resumed``: from here on no task is taken, and from here on again; nothing left with it."""
    study: Annotated[str, Field(max_length=64)] = ""
    """Digest of the study."""
    stage: Annotated[str, Field(max_length=64)] = ""
    """Stage of the study; empty for an inventory."""
    round: Count = 0
    """From 1; 0 for an inventory."""
    message: Annotated[str, Field(max_length=64)] = ""
    """Kind of work asked for: ``inventory``, ``round``, ``label``, ``stage``."""
    request: Digest = ""
    """Object id of the server's message."""
    content: Digest = ""
    """SHA-256 of the file that left; empty where only numbers or a code did."""
    bytes: Count = 0
    """Of that file."""
    encoding: Literal["", "fp32", "bf16-delta", "int8-delta"] = ""
    """How its numbers are written: every weight, or what changed since the model that was sent."""
    norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Euclidean norm over all its numbers."""
    samples: dict[str, int] = Field(default_factory=dict)
    """Cases per parameter group, as told to the server."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Every other number that left, by name."""
    decision: Literal["allowed", "refused"]
    """What the gate made of it."""
    code: str = ""
    """Why it was refused: the only thing the server is told."""


class Line(Entry):
    """An entry as it stands in the file."""

    sequence: Count
    """0, 1, 2 and so on."""
    prev: Digest
    """SHA-256 of the line before, without its line break; zeros in the first."""


class Disk:
    """What the ledger asks of the operating system; tests put a failing one in its place."""

    def write(self, descriptor: int, data: bytes) -> int:
        """As ``os.write``."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """As ``os.fsync``."""
        os.fsync(descriptor)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known about a ledger whose chain holds.

    Attributes:
        lines: How many.
        head: Hash of the last one, as the next line's ``prev``.
        size: Bytes up to its end.
        torn: Bytes after that: a line that was being written when the machine stopped.
    """

    lines: int
    head: str
    size: int
    torn: bytes


class Ledger:
    """The one writer of a ledger. Not for threads: the courier has one that sends."""

    def __init__(self, path: Path, *, disk: Disk | None = None) -> None:
        """Open, lock and verify ``path``; it is made when it does not exist.

        A torn last line is moved to ``ledger.torn-<n>`` beside it and ``torn`` names that file: it
        was never acknowledged, so nothing left on the strength of it.

        Raises:
            TrustError: STR-220, the chain does not hold. Nothing is changed then.
            ResourceError: STR-507, another process has it; STR-503, the disk failed.
        """
        self.path, self._disk = path, disk or Disk()
        self.heard: Callable[[Entry], None] = lambda _: None  # told of lines that are on the disk
        self.torn: Path | None = None
        self._file = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._lock()
            state = check(path)
            self._sequence, self._head = state.lines, state.head
            if state.torn:
                self.torn = self._set_aside(state)
            # The file's name, too, must outlive a crash before the first line is relied on.
            self._sync_folder()
        except OSError as error:
            self.close()
            raise _disk_failed() from error
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry) -> int:
        """Write ``entry`` and return its number once it is on the disk.

        After a failure nothing more is written: what the disk then holds is known only after
        it has been read again, by the next start.

        Raises:
            ResourceError: STR-503, it is not known to be on the disk. Do not act on it.
        """
        if self._file < 0:
            raise _disk_failed()
        sequence = self._sequence
        line = canonical_bytes(_fields(entry) | {"sequence": sequence, "prev": self._head})
        try:
            rest = line + b"\n"
            while rest:
                rest = rest[self._disk.write(self._file, rest) :]
            # Dying before this returns may lose the line: nothing has left, and nothing will.
            self._disk.fsync(self._file)
            # Dying after it leaves a line that says "sent" for what was not. That is the safe
            # side: the ledger may say more than what left, never less.
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _disk_failed() from error
            raise
        self._sequence, self._head = sequence + 1, hashlib.sha256(line).hexdigest()
        self.heard(entry)
        return sequence

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                f"Another process is writing {self.path}.",
                fix="Run one courier for a site; stop the other one first.",
                code="STR-507",
            ) from error

    def _set_aside(self, state: Checked) -> Path:
        """Keep the torn bytes in a file of their own, durably, and only then cut them off."""
        number = 1
        while (kept := self.path.with_name(f"ledger.torn-{number}")).exists():
            number += 1
        other = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            rest = state.torn
            while rest:
                rest = rest[self._disk.write(other, rest) :]
            self._disk.fsync(other)
        finally:
            os.close(other)
        self._sync_folder()
        os.ftruncate(self._file, state.size)
        self._disk.fsync(self._file)
        return kept

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._disk.fsync(folder)
        finally:
            os.close(folder)


def check(path: Path) -> Checked:
    """Recompute the chain of a ledger.

    Raises:
        TrustError: STR-220 with the number of the first line that does not hold.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        return check_lines(stream)


def check_lines(stream: BinaryIO) -> Checked:
    """As ``check``, of a ledger's bytes from the first on."""
    count, head, size, torn = 0, FIRST, 0, b""
    for raw in _raw_lines(stream):
        if not raw.endswith(b"\n"):
            torn = raw
            break
        line = _parse(raw[:-1], count)
        if line.prev != head or line.sequence != count:
            raise damaged(count)
        count, head, size = count + 1, hashlib.sha256(raw[:-1]).hexdigest(), size + len(raw)
    return Checked(count, head, size, torn)


def read(path: Path) -> Iterator[Line]:
    """Every whole line, in order; raises as ``check`` does where one is not an entry."""
    with path.open("rb") as stream:
        for number, raw in enumerate(_raw_lines(stream)):
            if raw.endswith(b"\n"):
                yield _parse(raw[:-1], number)


def read_on(stream: BinaryIO, after: Checked) -> Iterator[tuple[Line, Checked]]:
    """Whole lines behind what was checked, each with what is then known; raises as ``check`` does."""
    stream.seek(after.size)
    count, head, size = after.lines, after.head, after.size
    for raw in takewhile(lambda raw: raw.endswith(b"\n"), _raw_lines(stream)):
        line = _parse(raw[:-1], count)
        if line.prev != head or line.sequence != count:
            raise damaged(count)
        count, head, size = count + 1, hashlib.sha256(raw[:-1]).hexdigest(), size + len(raw)
        yield line, Checked(count, head, size, b"")


def _raw_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines with their break, never more than ``LONGEST`` bytes in memory."""
    number = 0
    while raw := stream.readline(LONGEST + 1):
        if len(raw) > LONGEST:
            raise damaged(number)
        yield raw
        number += 1


def _parse(raw: bytes, number: int) -> Line:
    """One line; it must be exactly what ``append`` writes for what it says."""
    try:
        line = Line.model_validate_json(raw)
        same = canonical_bytes(_fields(line)) == raw
    except (ValidationError, ValueError, RecursionError) as error:
        raise damaged(number) from error
    if not same or (line.code and line.code not in CODES):
        raise damaged(number)
    return line


def _fields(entry: Entry) -> dict[str, Any]:
    """What a line says. Lines from before there were encodings hold: no encoding is left unsaid."""
    fields = entry.model_dump(mode="json")
    if not entry.encoding:
        del fields["encoding"]
    return fields


def damaged(number: int) -> TrustError:
    """The refusal to go on with a ledger that was changed."""
    return TrustError(
        f"Line {number + 1} of the ledger, or the one before it, was changed, removed or put in later.",
        fix="Keep the file as evidence, find out who changed it, and start with a new state folder "
        "or a copy of the ledger that `stillroom-client ledger verify` accepts.",
        code="STR-220",
    )


def _disk_failed() -> ResourceError:
    return ResourceError(
        "The ledger could not be written to the disk; nothing was sent.",
        fix="Free or mend the disk of courier_state, then start the courier again.",
        code="STR-503",
    )
