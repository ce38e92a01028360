"""Where pulled objects lie: one folder a series, which appears whole or not at all.

::

    <folder>/<study>/<modality>-<series>/<instance>.dcm    complete, and counted
    <folder>/.incoming/<series>/<instance>.dcm             on its way; `data scan` does not look there

All names are keyed hashes. Instances are written beside their name, flushed and renamed; a series
is renamed into place once its count is right.
"""

import errno
import os
import shutil
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from stillroom.client.intake.index import RECEIVING
from stillroom.client.pacs.archive import Series
from stillroom.client.pacs.deidentify import pseudonym
from stillroom.client.pacs.failures import failure

MIB = 2**20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Shelf:
    """The folder that receives.

    Attributes:
        folder: ``pacs.folder``.
        key: Names are keyed with it.
        keep_free_mib: Nothing is written that would leave less.
    """

    folder: Path
    key: bytes
    keep_free_mib: int = 0

    def name(self, uid: str) -> str:
        """What a UID is called here."""
        return pseudonym(self.key, uid)

    def place(self, series: Series) -> Path:
        """Where a series lies once it is complete."""
        kind = series.modality.lower()
        return self.folder / self.name(series.study_uid) / f"{kind}-{self.name(series.uid)}"

    def incoming(self, series: Series) -> Path:
        """Where it lies until then."""
        return self.folder / RECEIVING / self.name(series.uid)

    def open(self, series: Series) -> set[str]:
        """Make ready to receive; names of the instances that are there already.

        A series that was complete and has grown is taken off the shelf again.
        """
        place, incoming = self.place(series), self.incoming(series)
        try:
            incoming.parent.mkdir(parents=True, exist_ok=True)
            if place.exists() and not incoming.exists():
                place.rename(incoming)
            incoming.mkdir(exist_ok=True)
            for half in incoming.glob("*.part"):
                half.unlink()
        except OSError as error:
            raise _no_room(error) from None
        return self.held(incoming)

    def held(self, folder: Path) -> set[str]:
        """Names of whole instances in a folder."""
        return {path.stem for path in folder.glob("*.dcm")}

    def put(self, series: Series, uid: str, data: Dataset) -> int:
        """Write one instance; returns its bytes. A kill leaves it whole or absent.

        Raises:
            DataError: There is no room, or nothing can be written (STR-452).
        """
        path = self.incoming(series) / f"{self.name(uid)}.dcm"
        half = path.with_suffix(".part")
        encoded = BytesIO()  # pydicom would take the reason out of an OSError
        pydicom.dcmwrite(encoded, data, enforce_file_format=True)
        try:
            if shutil.disk_usage(self.folder).free < self.keep_free_mib * MIB:
                raise OSError(errno.ENOSPC, "")
            with half.open("wb") as stream:
                stream.write(encoded.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(half, path)
        except OSError as error:
            half.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise
            raise _no_room(error) from None
        return encoded.tell()

    def finish(self, series: Series) -> None:
        """Rename a counted series into place. A kill before: fetched on. After: complete."""
        place = self.place(series)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _flush(self.incoming(series))
            self.incoming(series).rename(place)
            _flush(place.parent)
        except OSError as error:
            raise _no_room(error) from None

    def drop(self, series: Series) -> None:
        """Remove what came of a series that is refused."""
        shutil.rmtree(self.incoming(series), ignore_errors=True)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_room(error: OSError) -> Exception:
    if error.errno in {errno.EROFS, errno.EACCES, errno.EIO}:
        return failure("STR-452", "The folder that receives scans cannot be written.")
    return failure("STR-452", "Less than keep_free_mib is free where the scans would be written.")
