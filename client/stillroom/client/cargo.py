"""The two ends of a transfer on this site's disk: a file that is coming, and one that is going."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stillroom.common.errors import ResourceError

READ = 1 << 20
"""Bytes read at a time to take up the digest of what is there."""
write = os.write
"""Named here so that a test can have the disk fail."""


class Incoming:
    """A file that is coming; what is there from an earlier attempt counts.

    Attributes:
        total: Bytes of the whole file.
        held: Bytes that are here.
        came: Bytes that came since this object was made.
        digest: SHA-256 of the bytes that are here.
    """

    def __init__(self, part: Path, total: int) -> None:
        """Open ``part``, made where there is none, and take up its digest.

        Raises:
            ResourceError: STR-503, the disk failed.
        """
        self.total, self.held, self.came, self.digest = total, 0, 0, hashlib.sha256()
        self._part = part
        with own_disk():
            part.parent.mkdir(parents=True, exist_ok=True)
            if part.exists() and part.stat().st_size > total:
                part.unlink()  # of something else
            self._stream: BinaryIO = part.open("a+b", buffering=0)
            self._stream.seek(0)
            while piece := self._stream.read(READ):
                self.digest.update(piece)
                self.held += len(piece)

    def add(self, piece: memoryview) -> None:
        """Append ``piece``.

        Raises:
            ResourceError: STR-503, the disk is full or failed.
        """
        self.came += len(piece)
        with own_disk():
            while piece:
                count = write(self._stream.fileno(), piece)
                self.digest.update(piece[:count])
                self.held += count
                piece = piece[count:]

    def restart(self) -> None:
        """Forget what is here.

        Raises:
            ResourceError: STR-503, the disk failed.
        """
        with own_disk():
            self._stream.truncate(0)
        self.held, self.digest = 0, hashlib.sha256()

    def put(self, into: Path) -> None:
        """Give the whole file its name.

        Not forced to the disk: a model can be fetched again, and whoever finds the file later looks
        at its digest first (``models``), as this class does with a part.

        Raises:
            ResourceError: STR-503, the disk failed.
        """
        with own_disk():
            self._part.replace(into)

    def close(self) -> None:
        """Let go of the file; what came stays for the next attempt."""
        self._stream.close()


class Outgoing:
    """A file that is going.

    Attributes:
        sha256: Of its bytes, and its name.
        total: Its size.
        went: Bytes handed to the line since this object was made.
        wrong: How often the server found that it had received something else.
    """

    def __init__(self, path: Path, sha256: str, total: int) -> None:
        """Open ``path``.

        Raises:
            ResourceError: STR-503, it cannot be read.
        """
        self.sha256, self.total, self.went, self.wrong = sha256, total, 0, 0
        with own_disk():
            self._stream: BinaryIO = path.open("rb", buffering=0)

    def pieces(self, start: int, view: memoryview) -> Iterator[memoryview]:
        """The bytes from ``start`` on, in pieces that share ``view``'s memory.

        Raises:
            ResourceError: STR-503, the file cannot be read or has become shorter.
        """
        left = self.total - start
        with own_disk():
            self._stream.seek(start)
        while left:
            with own_disk():
                count = self._stream.readinto(view[:left])  # type: ignore[attr-defined]
                if not count:
                    raise OSError
            left -= count
            yield view[:count]

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()


@contextlib.contextmanager
def own_disk() -> Iterator[None]:
    """Tell a failure of this site's disk from one of the line, which is an ``OSError`` too."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            "A file of weights cannot be read or written on this site's disk.",
            fix="Free space under the site's exchange and courier_state folders.",
            code="STR-503",
        ) from error
