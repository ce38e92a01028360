"""The consortium's log: entries appended, signed and published so that nothing can be taken back.

Several processes append (the study process, the server, an operator's command), one at a time: a
lock of the operating system, which dies with its holder. One append is this sequence::

    1. entries and tiles      written beside what is published, fsynced
    2. the guard              replaced by the new signed checkpoint, fsynced: the log's promise
    3. ``checkpoint``         replaced, fsynced: now anybody can see it
    4. partial tiles          removed where the full one is published (tlog-tiles allows it)

Dying before 2: the tiles of step 1 belong to no checkpoint; the next append writes them again.
Dying between 2 and 3: the next to open the log publishes the guard's checkpoint, whose tiles are
all there. The guard is also the memory of what was promised: a log that was restored from
yesterday's backup does not continue it, and nothing is appended to either (STR-221). Keep it on
another disk than the log (``log_guard``), or a backup of both restores both.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.errors import ResourceError, TrustError
from stillroom.common.tlog.checkpoint import Checkpoint, open_checkpoint, sign
from stillroom.common.tlog.folder import CHECKPOINT, LogFolder, read_checkpoint
from stillroom.common.tlog.merkle import EMPTY, Hash, Tree, leaf_hash, verify_consistency
from stillroom.common.tlog.note import ED25519, MOST_SIGNATURES, Note, Verifier, parse_note
from stillroom.common.tlog.tiles import WIDTH, bundle, tile_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Log:
    """One log and the key that signs it.

    Attributes:
        folder: Published as it is: ``checkpoint`` and ``tile/``.
        guard: File with the last checkpoint that was promised; on another disk, if possible.
        origin: The log's name.
        key: Its Ed25519 key.
    """

    folder: Path
    guard: Path
    origin: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """What a reader needs to trust."""
        return Verifier(self.origin, ED25519, self.key.public_key().public_bytes_raw())

    def head(self) -> Checkpoint:
        """The last checkpoint that was promised, after finishing an append that was cut short.

        Raises:
            TrustError: STR-221.
        """
        with self._locked():
            return self._settle()

    def append(self, entries: Sequence[bytes]) -> range:
        """Append ``entries`` in order; they are durable and published when this returns.

        Returns:
            Their indices.

        Raises:
            TrustError: STR-221, the log does not continue what was promised.
            ResourceError: STR-503, a disk failed; nothing or all of it is in the log, and the next
                to open it finds out which.
        """
        return self.append_made(lambda _head: entries)

    def append_made(self, make: Callable[[Checkpoint], Sequence[bytes]]) -> range:
        """Append what ``make`` returns, while nobody else can append; none is nothing to do.

        Args:
            make: Given the head; may read the log up to it.

        Returns:
            Indices, and what it raises: as ``append``.
        """
        with self._locked():
            head = self._settle()
            entries = make(head)
            if not entries:
                return range(head.size, head.size)
            size = head.size + len(entries)
            try:
                new = self._extend(head, entries)
                note = sign(new, self.key).to_bytes()
                replace(self.guard, note)
                replace(self.folder / CHECKPOINT, note)
                self._prune(head.size, size)
            except ValueError as error:
                if _is_unreadable(error):
                    raise _disk_failed() from error
                raise _forked("The log's tiles are not what was promised.") from error
            except OSError as error:
                raise _disk_failed() from error
            return range(head.size, size)

    def cosigned(self, note: Note) -> None:
        """Add the cosignatures of ``note`` to those of the present checkpoint.

        A note that is no longer about the present head is dropped.
        """
        with self._locked():
            if Checkpoint.parse(note.text) != self._settle():
                return
            present = parse_note((self.folder / CHECKPOINT).read_bytes())
            signatures = {(s.name, s.key_id): s for s in (*present.signatures, *note.signatures)}
            together = tuple(signatures.values())[:MOST_SIGNATURES]
            replace(self.folder / CHECKPOINT, Note(note.text, together).to_bytes())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        _make(self.folder)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _settle(self) -> Checkpoint:
        """Compare what is published with what was promised; publish a promise that was not yet."""
        published = self._checkpoint_in(self.folder / CHECKPOINT)
        promised = self._checkpoint_in(self.guard)
        if published is None and promised is None:
            return Checkpoint(self.origin, 0, EMPTY)
        if promised is None or (published is not None and promised.size < published.size):
            raise _forked("The guard knows less than the log.")
        if published == promised:
            return promised
        try:
            whole = self._continues(published, promised)
        except ValueError as error:
            if _is_unreadable(error):
                raise _disk_failed() from error
            whole = False
        if not whole:
            raise _forked("The log is older than what was promised of it, or another one.")
        replace(self.folder / CHECKPOINT, self.guard.read_bytes())
        return promised

    def _extend(self, head: Checkpoint, entries: Sequence[bytes]) -> Checkpoint:
        """Write what ``entries`` add, and the head of what is then on the disk.

        Raises:
            ValueError: That does not continue ``head``: the tiles were damaged since. Nothing is
                signed that the last reader could not connect with what they have seen.
        """
        self._write_tiles(head.size, entries)
        size = head.size + len(entries)
        new = Checkpoint(self.origin, size, LogFolder(self.folder, size).root())
        if not self._continues(head, new):
            raise ValueError("the tiles do not continue the log")
        return new

    def _continues(self, old: Checkpoint | None, new: Checkpoint) -> bool:
        """Whether the tiles on disk are those of ``new`` and begin with ``old``."""
        log = LogFolder(self.folder, new.size)
        if log.root() != new.root:
            return False
        if old is None or old.size == 0:
            return True
        path = log.consistency(old.size)
        return verify_consistency(old.size, old.root, new.size, new.root, path)

    def _checkpoint_in(self, path: Path) -> Checkpoint | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return open_checkpoint(data, self.verifier)[0]
        except ValueError as error:
            raise _forked(f"{path.name} is not signed by this log's key.") from error

    def _write_tiles(self, size: int, entries: Sequence[bytes]) -> None:
        """Write every bundle and tile that ``entries`` change. Names are new or unpublished."""
        before = LogFolder(self.folder, size)
        index, held = size // WIDTH, before.bundle(size // WIDTH) if size % WIDTH else []
        for number, row in enumerate(_rows([*held, *entries]), index):
            replace(self.folder / tile_path(None, number, len(row)), bundle(row))
        level, fresh = 0, [leaf_hash(entry) for entry in entries]
        while fresh:
            count = size >> (8 * level)
            index = count // WIDTH
            begun: list[Hash] = before.tile(level, index) if count % WIDTH else []
            above = []
            for number, row in enumerate(_rows([*begun, *fresh]), index):
                replace(self.folder / tile_path(level, number, len(row)), b"".join(row))
                if len(row) == WIDTH:
                    above.append(Tree(row).root())
            level, fresh = level + 1, above

    def _prune(self, old: int, new: int) -> None:
        """Drop the partial forms of tiles that are full now; what stays costs room, nothing else.

        Without this a log would hold every width that its last tile ever had: 256 of each.
        """
        level = 0
        while new >> (8 * level):
            first, end = ((size >> (8 * level)) // WIDTH for size in (old, new))
            for index in range(first, end):
                places = [level] if level else [None, 0]
                for place in places:
                    partial = self.folder / (tile_path(place, index) + ".p")
                    shutil.rmtree(partial, ignore_errors=True)
            level += 1


def _rows(items: list[T]) -> list[list[T]]:
    return [items[at : at + WIDTH] for at in range(0, len(items), WIDTH)]


def replace(path: Path, data: bytes) -> None:
    """Replace ``path`` durably: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: Any step failed; ``path`` is then the old file or the new one, whole.
    """
    _make(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    _sync(path.parent)


def _make(folder: Path) -> None:
    """A folder and those above it, each on the disk before anything is put into it."""
    if not folder.is_dir():
        _make(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)  # noqa: PTH102  # every step goes through ``os``, where tests fail it
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def published(log: Log) -> tuple[Checkpoint, Note]:
    """The checkpoint that anybody can see, with its cosignatures.

    Raises:
        ValueError: There is none, or the log has not signed it.
    """
    return read_checkpoint(log.folder, log.verifier)


def _is_unreadable(error: ValueError) -> bool:
    """Whether a tile is there and the disk would not give it: no sign of another log."""
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _disk_failed() -> ResourceError:
    return ResourceError(
        "The log could not be written.",
        fix="Make room on its disk and the guard's, then start again; nothing is lost.",
        code="STR-503",
    )


def _forked(what: str) -> TrustError:
    return TrustError(
        what,
        fix="Do not delete anything. Was a backup restored, or is another server running on a copy? "
        "docs/operators/log.md says how to find the newest copy; only that one may go on.",
        code="STR-221",
    )
