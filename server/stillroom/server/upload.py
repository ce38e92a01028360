"""One file of weights coming in: appended as it arrives, checked against its name at the end.

Bytes that are here stay here, whatever breaks: a line, either process, the disk. What is asked of
a sender is only to go on where the file stands.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from stillroom.common.errors import ContractError, ResourceError

RESERVE = 64 << 20
"""Bytes of disk left to everything else on this machine when an upload is let in."""
write = os.write
"""Named here so that a test can have the disk fail."""


class WrongOffset(ContractError):  # noqa: N818  # it says what is so
    """Raised when a piece does not begin where the upload stands, or another sender is at it.

    Attributes:
        have: Bytes that are here.
    """

    def __init__(self, have: int) -> None:
        super().__init__(f"The upload stands at byte {have}.", fix="Go on from there.")
        self.have = have


class TooMany(ContractError):  # noqa: N818  # likewise
    """Raised when a site is sending as many files at once as it may."""


class Upload:
    """An upload with its one sender; a context manager.

    Attributes:
        have: Bytes that are here.
        total: Size of the whole file, as the site says.
    """

    def __init__(self, part: Path, offset: int, total: int) -> None:
        """Open the file ``part``, which is made where there is none.

        Raises:
            WrongOffset: It does not have ``offset`` bytes, or somebody else is writing it.
        """
        self.total, self._part = total, part
        self._stream: BinaryIO = part.open("ab", buffering=0)
        try:
            # One writer, even where a sender is back before its broken line is noticed.
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.have = os.fstat(self._stream.fileno()).st_size
            busy = self.have != offset
        except BlockingIOError:
            busy = True
        if busy:
            self._stream.close()
            raise WrongOffset(part.stat().st_size)
        # After a break the digest is taken at the end, once, not at every new start: a site that
        # begins often must not cost a pass over the file each time.
        self._hash = hashlib.sha256() if offset == 0 else None

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append ``piece``.

        Raises:
            ContractError: STR-300, more bytes than the site said there would be.
            ResourceError: STR-503, the disk is full; what fitted is kept.
        """
        if self.have + len(piece) > self.total:
            raise ContractError(
                "A file of weights is longer than announced.",
                fix="Announce the size that is sent.",
            )
        view = memoryview(piece)
        try:
            while view:
                count = write(self._stream.fileno(), view)
                if self._hash is not None:
                    self._hash.update(view[:count])
                self.have += count
                view = view[count:]
        except OSError as error:
            raise disk_failed(error) from error

    def finish(self, target: Path) -> bool:
        """Put the file in place as ``target`` if all of it is here and is what that name says.

        Returns:
            Whether it is in place; False when bytes are still to come.

        Raises:
            ContractError: STR-311, the bytes have another digest; they are thrown away.
            WrongOffset: Somebody discarded the upload meanwhile.
            ResourceError: STR-503, the disk failed.
        """
        if self.have < self.total:
            return False
        try:
            found = self._hash.hexdigest() if self._hash else digest(self._part)
            if found != target.name:
                self._part.unlink(missing_ok=True)
                raise ContractError(
                    "An upload does not have the digest it was sent under.",
                    fix="Send it again from the start.",
                    code="STR-311",
                )
            # The bytes before the name: after a power cut the file is whole or not there.
            os.fsync(self._stream.fileno())
            self._part.replace(target)
            sync_folder(target.parent)
        except FileNotFoundError as error:
            raise WrongOffset(0) from error
        except OSError as error:
            raise disk_failed(error) from error
        return True

    def close(self) -> None:
        """Let go of the file; what came stays for the next attempt."""
        self._stream.close()

    def __enter__(self) -> "Upload":
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def forget_idle(parts: list[Path]) -> bool:
    """Remove the oldest of ``parts`` that nobody is sending; False when all are being sent."""
    for part in sorted(parts, key=lambda path: path.stat().st_mtime_ns):
        with part.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            part.unlink(missing_ok=True)
            return True
    return False


def require_room(folder: Path, nbytes: int) -> None:
    """Refuse ``nbytes`` more on the disk of ``folder`` when they would fill it.

    Raises:
        ResourceError: STR-503.
    """
    if shutil.disk_usage(folder).free < nbytes + RESERVE:
        raise disk_failed(OSError(errno.ENOSPC, ""))


def disk_failed(error: OSError) -> ResourceError:
    """What a failure of the depot's disk means."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return ResourceError(
        f"The depot's disk {'is full' if full else 'failed'}.",
        fix="Free space under the server's state folder; transfers go on by themselves.",
        code="STR-503",
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
