"""What happens to one instance between the PACS and the disk: looked at, stripped, written, counted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from stillroom.client.intake.headers import SliceHeader
from stillroom.client.intake.quality import check_picture
from stillroom.client.pacs import kinds
from stillroom.client.pacs.archive import Series
from stillroom.client.pacs.deidentify import Deidentifier
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.hours import Pace
from stillroom.client.pacs.shelf import Shelf
from stillroom.common.errors import DataError, StillroomError


@dataclass(frozen=True, slots=True)
class Reception:
    """Takes the instances of one series; a ``Sink``.

    Attributes:
        series: What was asked for.
        shelf: Where it goes.
        pace: How fast.
        deidentifier: None writes what came.
        told: Called with the bytes of each instance.
    """

    series: Series
    shelf: Shelf
    pace: Pace
    deidentifier: Deidentifier | None
    told: Callable[[int], None]

    def __call__(self, data: Dataset) -> None:
        """Write one instance, or refuse it before anything of it is on disk.

        Raises:
            DataError: Not asked for or of no kept kind (STR-456), a picture (STR-423), no room (STR-452).
        """
        uid, series_uid = (
            str(data.get("SOPInstanceUID", "")),
            str(data.get("SeriesInstanceUID", "")),
        )
        if not uid or series_uid != self.series.uid:
            raise failure("STR-456", "The PACS sent an object of another series.")
        check_kind(data, self.series.modality)
        try:
            kept = data if self.deidentifier is None else self.deidentifier.apply(data)
            size = self.shelf.put(self.series, uid, kept)
        except (StillroomError, OSError):
            raise
        except Exception:  # noqa: BLE001  (a malformed object can raise anything in pydicom)
            raise failure("STR-456", "An object is malformed and cannot be written.") from None
        self.pace.spend(size)
        self.told(size)


def check_kind(data: Dataset, modality: str) -> None:
    """Refuse pictures, burned-in text and objects that are not of ``modality``.

    Raises:
        DataError: STR-423 or STR-456.
    """
    sop_class = str(data.get("SOPClassUID", ""))
    if modality == "CT" and (finding := check_picture([_header(data, sop_class)])):
        raise DataError(finding.reason, fix=finding.fix, code=finding.code)
    if sop_class not in kinds.KEPT[modality] or str(data.get("Modality", "")) != modality:
        raise failure("STR-456", "An object is of a kind that is not kept.")
    if str(data.get("BurnedInAnnotation", "")).upper() == "YES":
        raise DataError("An object has burned-in text.", fix="Leave it out.", code="STR-423")


def _header(data: Dataset, sop_class: str) -> SliceHeader:
    """What ``check_picture`` looks at."""
    kind = data.get("ImageType") or ()
    words = (kind,) if isinstance(kind, str) else tuple(kind)
    return SliceHeader(
        Path(),
        sop_class=sop_class,
        modality="CT",
        conversion=str(data.get("ConversionType") or ""),
        image_type=tuple(str(word).upper() for word in words),
        samples=int(data.get("SamplesPerPixel") or 1),
        photometric=str(data.get("PhotometricInterpretation") or "").upper(),
        burned_in=str(data.get("BurnedInAnnotation") or "").upper(),
    )
