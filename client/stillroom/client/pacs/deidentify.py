"""Identity out of an object, before it is written: the basic profile of DICOM PS3.15 Annex E.

A new data set is built from what ``profile`` lists; the old one is never edited, so nothing
survives by being overlooked. Pure: a data set in, a data set out.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID

from stillroom.client.pacs import profile
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.kinds import KEPT

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NUMBER_VR = frozenset(
    {"DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "AT", "US or SS"}
)
LONGEST_NUMBER = 64
"""Characters of a number in text; PS3.5 6.2 allows 16, and archives write more."""


@dataclass(frozen=True, slots=True)
class Deidentifier:
    """How this site takes identity out.

    Attributes:
        key: The site's key: the same UID gives the same replacement, and only here.
        names: Names of segments and structures that may stay, lower case.
        retains_uids: Leave UIDs as they are (option 113110).
    """

    key: bytes
    names: frozenset[str] = field(default_factory=frozenset)
    retains_uids: bool = False

    @classmethod
    def make(
        cls, key: bytes, names: Iterable[str] = (), *, retains_uids: bool = False
    ) -> "Deidentifier":
        """With ``names`` compared as intake compares them."""
        return cls(key, frozenset(name.strip().lower() for name in names), retains_uids)

    def apply(self, data: Dataset) -> Dataset:
        """What is kept of ``data``, with file meta of its own.

        Raises:
            DataError: It is of no kind that is kept (STR-456).
        """
        modality, sop_class = str(data.get("Modality", "")), str(data.get("SOPClassUID", ""))
        syntax = str(getattr(data, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
        if sop_class not in KEPT.get(modality, ()):
            raise failure("STR-456", "An object is of a kind that is not kept.")
        if not is_registered(syntax):
            raise failure("STR-456", "An object is in an encoding that DICOM does not know.")
        kept = self._kept(data)
        for keyword in (*profile.EMPTY[""], *profile.EMPTY[modality]):
            setattr(kept, keyword, "")
        for keyword, value in profile.DUMMY.get(modality, {}).items():
            setattr(kept, keyword, value)
        kept.PatientID = pseudonym(self.key, f"patient {data.get('PatientID', '')}")
        self._declare(kept)
        kept.file_meta = _meta(kept, syntax)
        return kept

    def uid(self, value: str) -> str:
        """The replacement of a UID; those that DICOM registers stay."""
        if self.retains_uids or is_registered(value):
            return value
        return new_uid(self.key, value)

    def _kept(self, data: Dataset) -> Dataset:
        kept = Dataset()
        for tag in data.keys():  # noqa: SIM118  (iterating a Dataset would decode every element)
            keyword = keyword_for_tag(tag)
            if tag.is_private or not keyword:
                continue
            if keyword in profile.SEQUENCES:
                items = [self._kept(item) for item in _items(data, keyword)]
                if keyword == "SegmentSequence":
                    _name_the_kind(items)
                setattr(kept, keyword, items)
            elif element := self._element(data, keyword):
                kept.add(element)
        return kept

    def _element(self, data: Dataset, keyword: str) -> DataElement | None:
        """One attribute as it is kept; None when it is not, or cannot be read."""
        if keyword not in _LISTED:
            return None
        try:
            element = data[keyword]
        except Exception:  # noqa: BLE001  (a value that breaks its representation can raise anything)
            return None
        if keyword in profile.PIXELS:
            return element
        if keyword in profile.NUMBERS:
            return element if _is_numeric(element) else None
        values = [str(value).strip() for value in _values(element)]
        if keyword in profile.WORDS:
            return _words(element, values, profile.WORDS[keyword])
        if keyword in profile.CLASSES:
            values = [value for value in values if is_registered(value)]
        elif keyword in profile.UIDS:
            values = [self.uid(value) for value in values if value]
        else:
            values = [self._name(data, value) for value in values]
        return _element_of(element, values)

    def _name(self, data: Dataset, value: str) -> str:
        """Of a segment or structure: people write patients' names there."""
        if value.lower() in self.names:
            return value
        number = str(data.get("ROINumber", data.get("SegmentNumber", "")))
        return f"structure-{number}" if number.isdigit() else "structure"

    def _declare(self, kept: Dataset) -> None:
        """Say what was done (PS3.15 E.1.1 step 8, PS3.3 C.7.1.1)."""
        options = [profile.BASIC]
        if any(name in kept for name in ("SegmentSequence", "StructureSetROISequence")):
            options.append(profile.CLEAN_DESCRIPTORS)
        if self.retains_uids:
            options.append(profile.RETAIN_UIDS)
        kept.PatientIdentityRemoved = "YES"
        kept.LongitudinalTemporalInformationModified = "REMOVED"
        kept.DeidentificationMethod = "stillroom: allow-list, PS3.15 E.1"
        kept.DeidentificationMethodCodeSequence = [_code(*option) for option in options]


def is_registered(value: str) -> bool:
    """Whether DICOM itself gave out this UID (PS3.6 annex A): it identifies nobody."""
    return UID(value, IGNORE).name != value


def new_uid(key: bytes, value: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) from HMAC-SHA-256 of another; 122 bits of it."""
    digest = hmac.new(key, b"uid " + value.encode(), hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big') >> 6}"


def pseudonym(key: bytes, value: str) -> str:
    """16 hex digits of HMAC-SHA-256: what folders and files are called, and who the patient is."""
    return hmac.new(key, b"name " + value.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[
        :16
    ]


_LISTED = profile.NUMBERS | set(profile.WORDS) | profile.UIDS | profile.CLASSES | profile.NAMES
_LISTED |= profile.PIXELS


def _items(data: Dataset, keyword: str) -> Iterable[Dataset]:
    try:
        return list(data[keyword].value or [])
    except Exception:  # noqa: BLE001  (a damaged sequence is dropped, not the object)
        return []


def _values(element: DataElement) -> Iterable[object]:
    value = element.value
    if value is None or value == "":
        return []
    return value if element.VM > 1 else [value]


def _is_numeric(element: DataElement) -> bool:
    """Numbers only: a DS may hold any text in a file that breaks the rules."""
    if element.VR not in NUMBER_VR:
        return False
    if element.VR in {"DS", "IS"}:
        texts = [str(getattr(value, "original_string", value)) for value in _values(element)]
        return all(len(t) <= LONGEST_NUMBER and NUMBER.fullmatch(t.strip()) for t in texts)
    return True


def _words(element: DataElement, values: list[str], known: frozenset[str]) -> DataElement | None:
    other = "OTHER" if "OTHER" in known else ""
    kept = [value.upper() if value.upper() in known else other for value in values]
    return _element_of(element, kept) if any(kept) else None


def _element_of(element: DataElement, values: list[str]) -> DataElement | None:
    if not values:
        return None
    return DataElement(element.tag, element.VR, values if len(values) > 1 else values[0])


def _name_the_kind(segments: Iterable[Dataset]) -> None:
    """Type 1 codes of a segment, which carry free text: the most general one for all."""
    for segment in segments:
        code = _code("123037004", "Anatomical Structure", scheme="SCT")
        segment.SegmentedPropertyCategoryCodeSequence = [code]
        segment.SegmentedPropertyTypeCodeSequence = [code]


def _code(value: str, meaning: str, *, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _meta(kept: Dataset, syntax: str) -> FileMetaDataset:
    """Group 0002 anew: the old one names machines. The preamble is zeros."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kept.SOPClassUID
    meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta
