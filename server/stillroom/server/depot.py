"""Files of weights on their way: what sites may fetch, and what they have sent.

::

    out/<shelf>/<sha256>        published by one run's ServerApp; the same bytes for every site
    in/<site>/<sha256>          whole, its bytes checked against its name
    in/<site>/<sha256>.part     an upload under way; its size is how far it came

A name is the SHA-256 of the bytes, so a file can be fetched or sent in pieces, at any time, over
any number of broken lines, and be checked at the end. Every change is one rename, link or append:
the edge (SuperLink process) receives, the ServerApp reads, publishes and discards, and either may
be killed at any moment.

The folders of sites are apart: a name is looked up only under the site that asks, so no site
learns what another one sent, not even by guessing its digest.
"""

import contextlib
import hashlib
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from stillroom.common.errors import ContractError
from stillroom.common.pki.names import SITE_PATTERN
from stillroom.server.upload import (
    TooMany,
    Upload,
    WrongOffset,
    disk_failed,
    forget_idle,
    require_room,
    sync_folder,
)

MOST_OPEN = 4
"""Uploads one site may have begun and not finished."""
MOST_HELD = 16
"""Whole uploads kept of one site; the ServerApp discards what it has used long before."""
MOST_BYTES = 2048 << 20
SPARE_S = 3600.0
"""How much older than the oldest open round an upload is that is swept away: clocks jump."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(SITE_PATTERN)


class Depot:
    """The folder of files on their way."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        """Take the folder, made when first needed, and the size of the largest upload (bytes)."""
        self._out, self._in = folder / "out", folder / "in"
        self._most = most_bytes

    def publish(self, shelf: str, path: Path, sha256: str) -> None:
        """Let sites fetch ``path`` under its digest; again is nothing.

        The bytes are not read: the caller has just made the file and knows its digest, and every
        site checks what arrives.

        Args:
            shelf: The run's, as ``shelf_of`` says: two runs of one study take nothing from each other.
            path: A file that nobody changes any more; its own name may be removed afterwards.
            sha256: Of its bytes.

        Raises:
            FileNotFoundError: There is no such file.
            ResourceError: STR-503, the disk failed.
        """
        target = self._out / shelf / _name(sha256)
        if target.exists():
            return
        temporary = target.with_name(f"{sha256}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            try:
                temporary.hardlink_to(path)
            except FileNotFoundError:
                raise
            except OSError:  # another filesystem, or one without links
                temporary.unlink(missing_ok=True)
                shutil.copyfile(path, temporary)
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_failed(error) from error

    def keep_only(self, shelf: str, names: Collection[str]) -> None:
        """Withdraw what this run has published, but for ``names``; a fetch under way goes on."""
        for path in _files(self._out / shelf):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def withdraw(self, shelf: str) -> None:
        """Withdraw all that an ended run has published."""
        self.keep_only(shelf, ())
        with contextlib.suppress(FileNotFoundError):
            (self._out / shelf).rmdir()

    def outgoing(self, sha256: str) -> Path | None:
        """The published file of this digest, of whichever run; None when there is none."""
        if not is_name(sha256):
            return None
        return next((p for p in sorted(self._out.glob(f"*/{sha256}")) if p.is_file()), None)

    def received(self, site: str, sha256: str) -> Path | None:
        """What ``site`` sent under this digest, whole and checked; None when it is not here."""
        if not is_name(sha256):
            return None
        path = self._of(site) / sha256
        return path if path.is_file() else None

    def have(self, site: str, sha256: str) -> tuple[int, bool]:
        """How many bytes of an upload are here, and whether it is whole and checked.

        Raises:
            ContractError: STR-300, the name is no SHA-256.
        """
        whole = self._of(site) / _name(sha256)
        for path in (_part(whole), whole, _part(whole)):  # it may be renamed while we look
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size, path is whole
        return 0, False

    def begin(self, site: str, sha256: str, *, offset: int, total: int) -> Upload:
        """Go on with an upload at ``offset``, or begin one at 0; to be closed by the caller.

        Args:
            site: Who sends.
            sha256: Of the whole file.
            offset: Where the bytes to come belong; must be where the upload stands.
            total: Size of the whole file, in bytes.

        Raises:
            WrongOffset: The upload stands elsewhere, or is being sent by somebody else.
            TooMany: The site is sending ``MOST_OPEN`` others.
            ContractError: STR-300, no SHA-256; STR-312, larger than this server takes.
            ResourceError: STR-503, there is no room for it.
        """
        have, whole = self.have(site, sha256)
        if whole or have != offset:
            raise WrongOffset(have)
        self.admit(have=have, total=total)
        part = _part(self._of(site) / sha256)
        try:
            others = [path for path in _files(part.parent, ".part") if path != part]
            if len(others) >= MOST_OPEN and not forget_idle(others):
                raise TooMany(
                    f"A site may send {MOST_OPEN} files at once.", fix="Wait for one to finish."
                )
            part.parent.mkdir(parents=True, exist_ok=True)
            return Upload(part, offset, total)
        except OSError as error:
            raise disk_failed(error) from error

    def admit(self, *, have: int, total: int) -> None:
        """Refuse a file that is too large, or for which there is no room.

        Raises:
            ContractError: STR-312, larger than this server takes.
            ResourceError: STR-503, no room.
        """
        if not have <= total <= self._most:
            raise ContractError(
                f"A file of weights has {total} bytes; this server takes {self._most}.",
                fix="Raise max_blob_mib in server.toml, or send a smaller encoding.",
                code="STR-312",
            )
        self._in.mkdir(parents=True, exist_ok=True)
        require_room(self._in, total - have)

    def finish(self, site: str, sha256: str, upload: Upload) -> bool:
        """Put ``upload`` in place if it is whole; returns whether it is.

        Raises:
            StillroomError: As ``Upload.finish``.
        """
        target = self._of(site) / _name(sha256)
        if not upload.finish(target):
            return False
        whole = [path for path in _files(target.parent) if is_name(path.name) and path != target]
        for path in sorted(whole, key=lambda path: path.stat().st_mtime_ns)[: 1 - MOST_HELD]:
            path.unlink(missing_ok=True)  # nobody came for it
        return True

    def append(
        self, site: str, sha256: str, pieces: Iterable[bytes], *, offset: int, total: int
    ) -> tuple[int, bool]:
        """Add ``pieces`` to an upload; returns what ``have`` says afterwards.

        Raises:
            StillroomError: As ``begin``, ``Upload.write`` and ``Upload.finish``.
        """
        with self.begin(site, sha256, offset=offset, total=total) as upload:
            for piece in pieces:
                upload.write(piece)
            return upload.have, self.finish(site, sha256, upload)

    def discard(self, site: str, sha256: str) -> None:
        """Forget an upload, whole or begun; nothing when there is none."""
        whole = self._of(site) / _name(sha256)
        for path in (whole, _part(whole)):
            path.unlink(missing_ok=True)

    def release(self, shelf: str, site: str, sha256: str, base: str) -> None:
        """Forget an upload that this run needs no more, unless another one may.

        Sites give the same answer to two runs of one study, by the same name. Whichever run still
        offers the model that the update was trained from may wait for it, and lets go of it later.

        Args:
            shelf: Of the run that is done with it, which offers ``base`` no longer.
            site: Who sent it.
            sha256: Of the upload.
            base: SHA-256 of the model it was trained from.
        """
        offered = self._out.glob(f"*/{base}") if is_name(base) else ()
        if all(path.parent.name == shelf for path in offered):
            self.discard(site, sha256)

    def sweep(self) -> None:
        """Remove uploads that nobody will come for: older than every round that is open.

        They came late, for a process that is gone. A round publishes its models when it opens, so a
        shelf is as old as its run's open round. One that is being sent is left alone.
        """
        opened = [path.stat().st_mtime for path in _files(self._out)]
        before = min(opened, default=math.inf) - SPARE_S
        for path in self._in.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    forget_idle([path])

    def _of(self, site: str) -> Path:
        if not _SITE.fullmatch(site):
            raise ValueError("not the name of a site")
        return self._in / site


def shelf_of(study: str, run: Path) -> str:
    """The name of a run's own shelf.

    Args:
        study: Digest of the prepared study.
        run: The run's folder: two runs of one study have two.
    """
    return f"{study[:16]}-{hashlib.sha256(bytes(run.resolve())).hexdigest()[:16]}"


def is_name(sha256: str) -> bool:
    """Whether this is a SHA-256 in lower-case hex, the only names there are."""
    return _SHA256.fullmatch(sha256) is not None


def _name(sha256: str) -> str:
    if not is_name(sha256):
        raise ContractError("A file's name is no SHA-256.", fix="Name files by their digest.")
    return sha256


def _part(whole: Path) -> Path:
    return whole.with_name(f"{whole.name}.part")


def _files(folder: Path, suffix: str = "") -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(suffix)]
    except FileNotFoundError:
        return []
