"""Nothing that identifies survives; pixels, geometry and the ties between objects do."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from stillroom.client.pacs import profile
from stillroom.client.pacs.deidentify import Deidentifier

KEY = b"k" * 32
OURS = Deidentifier.make(KEY, ["Aorta"])
KEYWORDS = sorted({entry[4] for entry in DicomDictionary.values() if entry[4]})
CANARY = "CANARY"
GIVEN = {"Modality": "CT", "SOPClassUID": CTImageStorage}
TEXT = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
DATES = {"DA": "19111213", "DT": "19111213141516", "TM": "141516", "AS": "091Y"}
BYTES = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN"})


def canary(vr: str, number: int) -> Any:
    """A value of this representation that is found again in bytes."""
    if vr in TEXT:
        return f"{CANARY}{number % 10**9}"
    if vr in DATES:
        return DATES[vr]
    if vr in BYTES:
        return f"{CANARY}{number:09}".encode() + b"\0" * 9
    if vr == "UI":
        return f"1.2.826.0.1.3680043.{number}"
    return None


def fill(data: Dataset, keywords: Sequence[str], number: int) -> None:
    """Canaries into ``keywords``; what a canary cannot be stays out: numbers are the geometry's."""
    for keyword in keywords:
        vr = dictionary_VR(tag_for_keyword(keyword))  # type: ignore[arg-type]
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if tag < 0x00080000 or keyword in GIVEN or keyword in profile.PIXELS:
            continue
        vr = vr.split(" or ")[-1]
        if vr in {"DS", "IS"}:
            data[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag),
                vr,
                10,
                b"CANARY-DS ",
                0,
                is_implicit_VR=False,
                is_little_endian=True,
            )
        elif (value := canary(vr, number + tag)) is not None:
            data.add_new(tag, vr, value)


def full(keywords: Sequence[str], number: int, *, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A CT image with canaries at the top, in two depths of sequences, in private blocks and in file meta."""
    data, inner, outer = Dataset(), Dataset(), Dataset()
    fill(data, keywords, number)
    for one in (inner, outer):
        fill(one, keywords[:300], number)
    private = inner.private_block(0x0011, f"{CANARY} BLOCK", create=True)
    private.add_new(1, "LO", f"{CANARY}PRIVATE")
    outer.ContentSequence = Items([inner])
    outer.SourceImageSequence = Items([inner])
    few = Dataset()
    few.PatientName, few.TextValue, few.ReferencedSOPInstanceUID = (
        f"{CANARY}^A",
        CANARY,
        f"1.2.826.{number}",
    )
    for keyword in keywords:
        if dictionary_VR(tag_for_keyword(keyword)) == "SQ":  # type: ignore[arg-type]
            setattr(data, keyword, Items([few]))
    data.SharedFunctionalGroupsSequence = data.DerivationImageSequence = Items([outer])
    block = data.private_block(0x0029, f"{CANARY} HEADER", create=True)
    block.add_new(0x10, "OB", b"CANARYCSA\0")
    block.add_new(0x11, "SQ", Items([inner]))
    data.add_new(0x60003000, "OW", b"CANARYOVERLAY\0")
    for keyword, value in GIVEN.items():
        setattr(data, keyword, value)
    data.SOPInstanceUID, data.Rows, data.Columns = f"1.2.826.0.{number}", 2, 2
    data.BitsAllocated, data.PixelRepresentation = 16, 0
    data.PixelData = b"\1\2\3\4\5\6\7\0"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.SourceApplicationEntityTitle = f"{CANARY}AE"
    data.file_meta.PrivateInformationCreatorUID = f"1.2.826.0.1.3680043.{number}"
    data.file_meta.PrivateInformation = b"CANARYMETA"
    data.preamble = b"CANARY" * 21 + b"\0\0"  # type: ignore[attr-defined]
    return data


def written(data: Dataset) -> bytes:
    stream = BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def through_a_file(data: Dataset) -> Dataset:
    """As it comes from a PACS: raw elements, not Python values."""
    return pydicom.dcmread(BytesIO(written(data)), force=True)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    keywords=st.lists(st.sampled_from(KEYWORDS), min_size=150, max_size=300, unique=True),
    number=st.integers(min_value=10**8, max_value=10**9),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
)
def test_no_canary_survives(keywords: list[str], number: int, syntax: str) -> None:
    """Whatever attributes an object has, at whatever depth: no value of them is in the file written."""
    kept = written(OURS.apply(through_a_file(full(keywords, number, syntax=syntax))))

    assert CANARY.encode() not in kept
    assert CANARY.encode("utf-16-le") not in kept
    for value in DATES.values():
        assert value.encode() not in kept
    assert str(number).encode()[:6] not in kept.replace(OURS.uid("").encode(), b"")
    assert b"\1\2\3\4\5\6\7\0" in kept


@pytest.mark.filterwarnings("ignore")
def test_no_attribute_of_the_dictionary_survives_but_those_listed() -> None:
    """All of DICOM's attributes at once."""
    given_ = full(KEYWORDS, 123456789)
    kept = written(OURS.apply(given_))

    assert written(given_).count(CANARY.encode()) > 1500
    assert kept.count(CANARY.encode()) == 0


def test_pixels_and_geometry_are_bit_identical(ct_series: Callable[..., Sequence[Dataset]]) -> None:
    """Every number that says where a voxel is and what it means, as the text it was written in."""

    def edit(data: Dataset, number: int) -> None:
        data.ImagePositionPatient = ["-100.250", "+20.5e0", f"{number}.00"]

    for one in map(through_a_file, ct_series(3, edit=edit)):
        kept = through_a_file(OURS.apply(one))
        for keyword in sorted(profile.NUMBERS | profile.PIXELS):
            if keyword in one:
                tag = tag_for_keyword(keyword)
                assert kept.get_item(tag).value == through_a_file(one).get_item(tag).value, keyword
        assert [str(v.original_string) for v in kept.ImagePositionPatient][1] == "+20.5e0"
        assert "PatientBirthDate" in kept
        assert not kept.PatientBirthDate
