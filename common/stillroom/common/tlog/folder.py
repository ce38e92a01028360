"""A log in a folder, as it is published (C2SP tlog-tiles): read it, look hashes up, prove things.

Nothing that is read here is trusted; whoever wants to know whether the folder is whole compares
it with a checkpoint (``stillroom-audit verify``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.tlog.checkpoint import Checkpoint, open_checkpoint
from stillroom.common.tlog.merkle import (
    Hash,
    consistency_path,
    inclusion_path,
    node_hash,
    root_of,
)
from stillroom.common.tlog.note import Note, Verifier
from stillroom.common.tlog.proof import Proof
from stillroom.common.tlog.tiles import WIDTH, hashes, tile_path, unbundle

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class LogFolder:
    """The tiles and bundles of a log of ``size`` entries.

    Attributes:
        folder: Holds ``checkpoint`` and ``tile/``.
        size: Entries one wants to know about; tiles beyond are not looked at.
    """

    folder: Path
    size: int

    def complete(self, level: int, index: int) -> Hash:
        """Hash of a complete subtree, from the one tile that holds it.

        Raises:
            ValueError: The tile is absent or not one.
        """
        tall, low = divmod(level, 8)
        first = index << low
        number, offset = divmod(first, WIDTH)
        row = self.tile(tall, number)[offset : offset + (1 << low)]
        if len(row) != 1 << low:
            raise ValueError("a tile lacks hashes")
        while len(row) > 1:
            row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
        return row[0]

    def tile(self, level: int, index: int) -> list[Hash]:
        """The hashes of one tile; raises as ``complete`` does."""
        return hashes(self._read(level, index, self.width(level, index)))

    def width(self, level: int, index: int) -> int:
        """How many hashes a tile has in a tree of this size; 0 when it has no such tile."""
        return min(max((self.size >> (8 * level)) - index * WIDTH, 0), WIDTH)

    def bundle(self, index: int) -> list[bytes]:
        """Entries ``256 * index`` and on, at most 256.

        Raises:
            ValueError: The bundle is absent, not one, or has another number of entries.
        """
        width = self.width(0, index)
        entries = unbundle(self._read(None, index, width))
        if len(entries) < width:
            raise ValueError("a bundle lacks entries")
        return entries[:width]

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every entry from ``start`` on with its index; raises as ``bundle`` does."""
        for number in range(start // WIDTH, -(-self.size // WIDTH)):
            for place, entry in enumerate(self.bundle(number), number * WIDTH):
                if place >= start:
                    yield place, entry

    def entry(self, index: int) -> bytes:
        """One entry; raises as ``bundle`` does, and IndexError."""
        return self.bundle(index // WIDTH)[index % WIDTH]

    def root(self, size: int | None = None) -> Hash:
        """Root of the first ``size`` entries, from tiles."""
        return root_of(self, self.size if size is None else size)

    def inclusion(self, index: int) -> list[Hash]:
        """Audit path of an entry."""
        return inclusion_path(self, index, self.size)

    def consistency(self, old: int) -> list[Hash]:
        """Proof that the first ``old`` entries are a prefix of this log."""
        return consistency_path(self, old, self.size)

    def proof(self, index: int, note: Note) -> Proof:
        """The proof of an entry under a checkpoint of this size."""
        return Proof(index, tuple(self.inclusion(index)), note)

    def data(self, path: str) -> bytes:
        """One file of the log; another way to it than a folder overrides this.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read.
        """
        return (self.folder / path).read_bytes()

    def _read(self, level: int | None, index: int, width: int) -> bytes:
        if not width:
            raise ValueError("there is no such tile")
        for name in dict.fromkeys((width, WIDTH)):
            # A partial tile may have been removed once the full one is there (tlog-tiles).
            try:
                return self.data(tile_path(level, index, name))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ValueError("a tile cannot be read") from error
        raise ValueError(f"{tile_path(level, index, width)} is missing")


def read_checkpoint(folder: Path, log: Verifier) -> tuple[Checkpoint, Note]:
    """The published checkpoint of a log folder.

    Raises:
        ValueError: It is absent, or the log has not signed it.
    """
    try:
        data = (folder / CHECKPOINT).read_bytes()
    except OSError as error:
        raise ValueError("there is no checkpoint") from error
    return open_checkpoint(data, log)
