"""What one DICOM file says about its pixels, read without reading them.

Values are taken as raw bytes and parsed here, because hospital files break the rules of their
value types and one odd private element must not cost a series. Whatever is absent or makes no
sense is None: ``quality`` decides what that means.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset

from stillroom.client.intake import pixels

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_TAGS = {
    "image_type": 0x00080008,
    "sop_class": 0x00080016,
    "sop_uid": 0x00080018,
    "modality": 0x00080060,
    "conversion": 0x00080064,
    "tilt": 0x00181120,
    "study": 0x0020000D,
    "series": 0x0020000E,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "frame_of_reference": 0x00200052,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "frames": 0x00280008,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "pixel_mm": 0x00280030,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "signed": 0x00280103,
    "burned_in": 0x00280301,
    "intercept": 0x00281052,
    "slope": 0x00281053,
    "rescale_type": 0x00281054,
}
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_WANTED: list[Any] = [*_TAGS.values(), _SHARED, _PER_FRAME]


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: a file, or one frame of a multi-frame file.

    Attributes:
        path: The file.
        frame: Index of the frame in the file; 0 for a single-frame file.
        frames: Frames in the file, as it claims.
        is_multiframe: Geometry comes from functional groups.
        position_mm: Centre of the first pixel, LPS.
        orientation: Directions of a row, then of a column, six cosines.
        pixel_mm: Distance between rows, then between columns (PS3.3 10.7.1.3).
        tilt_deg: GantryDetectorTilt, degrees; None when absent.
        slope: HU per stored unit; None when absent.
        intercept: HU of stored zero; None when absent.
        bits_allocated: Bits per stored pixel; 0 when absent.
        problem: What is wrong with the pixel data, if anything.
        offset: Byte offset of the first pixel of an uncompressed file; None when compressed.
    """

    path: Path
    frame: int = 0
    frames: int = 1
    is_multiframe: bool = False
    transfer_syntax: str = ""
    sop_class: str = ""
    sop_uid: str = ""
    modality: str = ""
    conversion: str = ""
    image_type: tuple[str, ...] = ()
    series_uid: str = ""
    study_uid: str = ""
    frame_of_reference_uid: str = ""
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_mm: tuple[float, ...] | None = None
    tilt_deg: float | None = None
    rows: int = 0
    columns: int = 0
    samples: int = 1
    photometric: str = ""
    bits_allocated: int = 0
    bits_stored: int = 0
    is_signed: bool = False
    burned_in: str = ""
    slope: float | None = None
    intercept: float | None = None
    rescale_type: str = ""
    problem: pixels.Problem | None = None
    offset: int | None = None


def read_slices(path: Path) -> tuple[SliceHeader, ...] | None:
    """The slices of a file; None when it is not DICOM, or a DICOMDIR. Never raises.

    A file that says it is DICOM but cannot be read comes back as one header with a problem.
    """
    try:
        with path.open("rb") as stream:
            return _read(stream, path) if _looks_like(stream, path) else None
    except Exception:  # noqa: BLE001  (a damaged file can raise anything; it must not stop the scan)
        return (SliceHeader(path, problem="unreadable"),)


def _looks_like(stream: BinaryIO, path: Path) -> bool:
    """Part 10 prefix, or a data set without one (old archives): its first group is 0008."""
    start = stream.read(132)
    stream.seek(0)
    if start[128:132] == b"DICM":
        return True
    return path.suffix.lower() in {".dcm", ".ima"} or start[:2] in {b"\x08\x00", b"\x02\x00"}


def _read(stream: BinaryIO, path: Path) -> tuple[SliceHeader, ...] | None:
    data = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_WANTED, force=True)
    meta = getattr(data, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta else ""
    if meta and str(meta.get("MediaStorageSOPClassUID", "")) == DICOMDIR_CLASS:
        return None
    header = _header(data, path, syntax or IMPLICIT_LITTLE)
    if not header.modality and not header.sop_class and not header.rows:
        return (SliceHeader(path, problem="unreadable"),)
    if _PER_FRAME in data:
        return _frames(data, header, stream)
    return (_with_pixels(header, stream),)


def _header(data: Dataset, path: Path, syntax: str) -> SliceHeader:
    little = syntax != BIG_ENDIAN
    raw = {name: _raw(data, tag) for name, tag in _TAGS.items()}
    pixel = _floats(raw["pixel_mm"], 2)
    slope, intercept = _floats(raw["slope"], 1), _floats(raw["intercept"], 1)
    tilt = _floats(raw["tilt"], 1)
    return SliceHeader(
        path,
        frames=_integer_text(raw["frames"]),
        transfer_syntax=syntax,
        sop_class=_text(raw["sop_class"]),
        sop_uid=_text(raw["sop_uid"]),
        modality=_text(raw["modality"]).upper(),
        conversion=_text(raw["conversion"]).upper(),
        image_type=tuple(part.strip() for part in _text(raw["image_type"]).upper().split("\\")),
        series_uid=_text(raw["series"]),
        study_uid=_text(raw["study"]),
        frame_of_reference_uid=_text(raw["frame_of_reference"]),
        position_mm=_floats(raw["position"], 3),
        orientation=_floats(raw["orientation"], 6),
        pixel_mm=pixel,
        tilt_deg=tilt[0] if tilt else None,
        rows=_short(raw["rows"], little=little),
        columns=_short(raw["columns"], little=little),
        samples=_short(raw["samples"], little=little) or 1,
        photometric=_text(raw["photometric"]).upper(),
        bits_allocated=_short(raw["bits_allocated"], little=little),
        bits_stored=_short(raw["bits_stored"], little=little),
        is_signed=_short(raw["signed"], little=little) == 1,
        burned_in=_text(raw["burned_in"]).upper(),
        slope=slope[0] if slope else None,
        intercept=intercept[0] if intercept else None,
        rescale_type=_text(raw["rescale_type"]).upper(),
    )


def _with_pixels(header: SliceHeader, stream: BinaryIO) -> SliceHeader:
    """Add what the pixel data element looks like; ``stream`` stands at it."""
    if header.transfer_syntax == DEFLATED:
        return replace(header, problem="undecodable")
    size = header.rows * header.columns * header.samples * max(1, header.frames)
    found = pixels.inspect(
        stream,
        expected=math.ceil(size * header.bits_allocated / 8),
        matrix=(header.rows, header.columns),
        is_explicit=header.transfer_syntax != IMPLICIT_LITTLE,
        is_big_endian=header.transfer_syntax == BIG_ENDIAN,
        file_size=os.fstat(stream.fileno()).st_size,
    )
    return replace(header, problem=found.problem, offset=found.offset)


def _frames(data: Dataset, header: SliceHeader, stream: BinaryIO) -> tuple[SliceHeader, ...]:
    """One header per frame of an enhanced image (PS3.3 C.7.6.16): per-frame groups win."""
    header = replace(_with_pixels(header, stream), is_multiframe=True)
    shared = _first(data.get(_SHARED))
    groups = data[_PER_FRAME].value
    if len(groups) != header.frames:
        return (replace(header, problem="truncated"),)
    slices = []
    for index, own in enumerate(groups):
        position = _group(own, shared, "PlanePositionSequence")
        orientation = _group(own, shared, "PlaneOrientationSequence")
        measures = _group(own, shared, "PixelMeasuresSequence")
        rescale = _group(own, shared, "PixelValueTransformationSequence")
        kind = _group(own, shared, "CTImageFrameTypeSequence")
        slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
        slices.append(
            replace(
                header,
                frame=index,
                position_mm=_numbers(position, "ImagePositionPatient", 3),
                orientation=_numbers(orientation, "ImageOrientationPatient", 6),
                pixel_mm=_numbers(measures, "PixelSpacing", 2),
                slope=header.slope if slope is None else slope,
                intercept=header.intercept if intercept is None else intercept,
                rescale_type=str(rescale.get("RescaleType", header.rescale_type)).upper(),
                image_type=tuple(str(t).upper() for t in kind.get("FrameType", None) or ())
                or header.image_type,
            )
        )
    return tuple(slices) or (replace(header, problem="truncated"),)


def _first(element: Any) -> Dataset:
    items = element.value if element is not None else None
    return items[0] if items else Dataset()


def _group(own: Dataset, shared: Dataset, name: str) -> Dataset:
    for source in (own, shared):
        if items := source.get(name):
            return items[0]
    return Dataset()


def _numbers(item: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    value = item.get(name)
    if value is None:
        return None
    values = tuple(float(v) for v in (value if count > 1 else [value]))
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _number(item: Dataset, name: str) -> float | None:
    values = _numbers(item, name, 1)
    return values[0] if values else None


def _raw(data: Dataset, tag: int) -> bytes:
    if tag not in data:
        return b""
    value = data.get_item(tag).value
    return value if isinstance(value, bytes) else str(value if value is not None else "").encode()


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace").strip(" \0\t\r\n")


def _floats(raw: bytes, count: int) -> tuple[float, ...] | None:
    """``count`` finite decimals, or None."""
    try:
        values = tuple(float(part) for part in _text(raw).split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _short(raw: bytes, *, little: bool) -> int:
    return int.from_bytes(raw[:2], "little" if little else "big") if len(raw) >= 2 else 0


def _integer_text(raw: bytes) -> int:
    """NumberOfFrames; 1 when absent. A hostile number is kept, for the size limit to see."""
    try:
        return max(1, int(_text(raw)[:12])) if raw.strip(b" \0") else 1
    except ValueError:
        return 1
