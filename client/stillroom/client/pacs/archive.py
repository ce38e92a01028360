"""What a pull needs of a PACS, whichever way it is spoken to. No DICOM library in here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Sink = Callable[["Dataset"], None]
"""Takes one instance with its file meta; raises to refuse it."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series that a PACS says it has. Never printed: UIDs name a patient.

    Attributes:
        study_uid: StudyInstanceUID.
        uid: SeriesInstanceUID.
        modality: CT, SEG or RTSTRUCT.
        stated: NumberOfSeriesRelatedInstances; None where the PACS does not say it.
    """

    study_uid: str
    uid: str
    modality: str
    stated: int | None = None


class Archive(Protocol):
    """A PACS. Every method raises ``DataError`` with a code of ``failures.FIX``."""

    def check(self) -> None:
        """Say hello; returns where the PACS answers to this site."""
        ...

    def studies(self, keys: Mapping[str, str], most: int) -> Sequence[str]:
        """Study UIDs that match study-level ``keys``; more than ``most`` where there are more."""
        ...

    def series(
        self, study_uid: str, keys: Mapping[str, str], modalities: Sequence[str]
    ) -> Sequence[Series]:
        """A study's series of these modalities that match series-level ``keys``."""
        ...

    def instances(self, series: Series) -> Sequence[str]:
        """SOP instance UIDs of a series; empty where the PACS cannot list them."""
        ...

    def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Sink) -> None:
        """Hand ``wanted`` instances to ``sink``, all when None. What arrived before a failure stays."""
        ...

    def close(self) -> None:
        """Give back ports and connections."""
        ...


IDENTIFYING = frozenset({"AccessionNumber", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"})
"""Keys of which an exact value must come back in the answer (PS3.4 C.2.2.2.1)."""


def is_match(keyword: str, asked: str, answered: str) -> bool:
    """Whether an answer is to the question: some archives ignore a key they do not know.

    Wildcards, ranges and lists are the archive's to judge, and so is any other key that it left
    out of its answer.
    """
    is_range = keyword.endswith(("Date", "Time")) and "-" in asked
    if is_range or any(sign in asked for sign in "*?\\"):
        return True
    if not answered and keyword not in IDENTIFYING:
        return True
    return asked.strip() == answered.strip()
