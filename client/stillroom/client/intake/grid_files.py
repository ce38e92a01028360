"""What a NIfTI, NRRD or MetaImage file says about its grid, and whether it is a label map.

ITK reads the header. Whether the file is an image or a label map no header says reliably, so up
to ``SAMPLE_BYTES`` of its voxels are looked at: a CT in Hounsfield units holds air or noise
below zero within that, a label map never does.
"""

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.catalogue import Finding
from stillroom.client.intake.quality import FIX, Limits, check_count, check_region, check_size
from stillroom.client.intake.stacking import IDENTITY, Nine, Triple

# ITK prints warnings with file names, and those may be a patient's.
sitk.ProcessObject.GlobalWarningDisplayOff()

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Files that hold header and voxels; detached headers can point anywhere and are left out."""

SAMPLE_BYTES = 2**22
LARGEST_LABEL = 255
DEFLATE_RATIO = 1032
"""Deflate cannot compress better than this (zlib technical notes), so more is a false header."""
NIFTI_HEADER = 352
"""Bytes before the voxels of a NIfTI-1 file, at least (nifti1.h)."""
SLACK_BYTES = 2**20
"""Header, extensions and padding that a file may hold beside its voxels."""
LABEL_TYPES = frozenset({sitk.sitkUInt8, sitk.sitkInt8})
NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
NRRD_TYPES = {
    **dict.fromkeys(("short", "int16", "int16_t", "signed short"), "i2"),
    **dict.fromkeys(("ushort", "uint16", "uint16_t", "unsigned short"), "u2"),
    **dict.fromkeys(("int", "int32", "int32_t", "signed int"), "i4"),
    **dict.fromkeys(("uint", "uint32", "uint32_t", "unsigned int"), "u4"),
    "float": "f4",
    "double": "f8",
}


BAD_NAME = Finding(
    "STR-410",
    "A file or folder name is not UTF-8, so the image library cannot open it.",
    "Rename the file or folder, or export to one with a plain name.",
)


@dataclass(frozen=True, slots=True)
class GridFile:
    """A file's grid; zeros and identity where its header cannot be read.

    Attributes:
        is_label: A label map rather than an image.
        findings: Reasons against using it as an image.
    """

    size: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: Triple = (0.0, 0.0, 0.0)
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: Nine = IDENTITY
    is_label: bool = False
    findings: tuple[Finding, ...] = ()


def is_grid_file(path: Path) -> bool:
    """Whether the name says so."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def is_utf8(path: Path) -> bool:
    """Whether ITK can be given this name; others crash its Python wrapper, process and all."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_grid(path: Path, limits: Limits) -> GridFile:
    """Header and verdict of one file. Never raises."""
    if not is_utf8(path):
        return GridFile(findings=(BAD_NAME,))
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) != 3 or reader.GetNumberOfComponents() != 1:
            return GridFile(findings=(_finding("STR-410", "Not one three-dimensional image."),))
        grid = GridFile(
            size=cast("tuple[int, int, int]", tuple(size)),
            spacing_mm=cast("Triple", tuple(reader.GetSpacing())),
            origin_mm=cast("Triple", tuple(reader.GetOrigin())),
            direction=cast("Nine", tuple(reader.GetDirection())),
        )
        voxel = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
        findings = _weigh(path, grid, voxel, limits)
        is_whole = not {"STR-418", "STR-422"} & {finding.code for finding in findings}
        is_label = is_whole and _is_label(path, reader.GetPixelID())
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return GridFile(findings=(_finding("STR-418", "The compressed voxels are cut short."),))
    except Exception:  # noqa: BLE001  (a damaged file can raise anything; it must not stop the scan)
        return GridFile(findings=(_finding("STR-410", "The file cannot be read as an image."),))
    return GridFile(
        grid.size, grid.spacing_mm, grid.origin_mm, grid.direction, is_label, tuple(findings)
    )


def _weigh(path: Path, grid: GridFile, voxel_bytes: int, limits: Limits) -> list[Finding]:
    """The checks of ``quality`` that apply, and sizes that cannot be true."""
    if large := check_size(grid.size, limits):
        return [large]
    found = [
        check_region(grid.size, grid.spacing_mm, grid.direction, limits),
        check_count(min(grid.size), limits),
    ]
    expected, actual = math.prod(grid.size) * voxel_bytes, path.stat().st_size
    name = path.name.lower()
    if name.endswith(".nii") and actual < expected + NIFTI_HEADER:
        found.append(_finding("STR-418", "The file is shorter than its header claims."))
    if name.endswith(".gz"):
        found.append(_weigh_gzip(path, expected, actual))
    return [finding for finding in found if finding is not None]


def _weigh_gzip(path: Path, expected: int, actual: int) -> Finding | None:
    """Whether a gzip file holds what its header claims, not less and not far more.

    The trailer tells the length modulo 4 GiB (RFC 1952, 2.3.1). Only when that is odd, as it is
    for a cut file or one of several members, is the file inflated, piece by piece.
    """
    if actual * DEFLATE_RATIO < expected:
        return _finding("STR-418", "The file is shorter than its header claims.")
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        told = int.from_bytes(stream.read(4), "little")
    if expected % 2**32 <= told <= expected % 2**32 + SLACK_BYTES:
        return None
    inflated = 0
    with gzip.open(path) as packed:
        while inflated <= expected + SLACK_BYTES and (piece := packed.read(SLACK_BYTES)):
            inflated += len(piece)
    if inflated < expected:
        return _finding("STR-418", "The file is shorter than its header claims.")
    if inflated > expected + SLACK_BYTES:
        return _finding("STR-422", "The file inflates to more than its header claims.")
    return None


def _is_label(path: Path, pixel_type: int) -> bool:
    if pixel_type in LABEL_TYPES:
        return True
    sample = _sample(path)
    if sample is None or sample.size == 0:
        return False
    with np.errstate(invalid="ignore"):
        whole = (sample == np.floor(sample)) & (sample >= 0) & (sample <= LARGEST_LABEL)
    return bool(whole.all())


def _sample(path: Path) -> NDArray[np.float64] | None:
    """The first voxels, rescaled as the header says; None where the layout is unfamiliar."""
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        with gzip.open(path) as packed:
            return _nifti_sample(cast("BinaryIO", packed))
    with path.open("rb") as stream:
        if name.endswith(".nii"):
            return _nifti_sample(stream)
        return _nrrd_sample(stream) if name.endswith(".nrrd") else None


def _nifti_sample(stream: BinaryIO) -> NDArray[np.float64] | None:
    """NIfTI-1: fields by their offsets in nifti1.h."""
    head = stream.read(348)
    order = "<" if head[:4] == b"\x5c\x01\x00\x00" else ">"
    kind = NIFTI_TYPES.get(int(np.frombuffer(head, order + "i2", 1, 70)[0]))
    offset, slope, shift = (float(v) for v in np.frombuffer(head, order + "f4", 3, 108))
    if kind is None or not 348 <= offset < SLACK_BYTES:
        return None
    stream.seek(int(offset))
    values = _voxels(stream.read(SAMPLE_BYTES), order + kind)
    return values * slope + shift if math.isfinite(slope) and slope != 0 else values


def _nrrd_sample(stream: BinaryIO) -> NDArray[np.float64] | None:
    fields: dict[str, str] = {}
    for line in iter(lambda: stream.readline(4096), b""):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            break
        key, _, value = text.partition(":")
        fields[key.strip().lower()] = value.strip().lower()
    kind = NRRD_TYPES.get(fields.get("type", ""))
    if kind is None or "data file" in fields or "datafile" in fields:
        return None
    order = ">" if fields.get("endian") == "big" else "<"
    encoding = fields.get("encoding", "")
    if encoding in {"gzip", "gz"}:
        return _voxels(gzip.GzipFile(fileobj=stream).read(SAMPLE_BYTES), order + kind)
    return _voxels(stream.read(SAMPLE_BYTES), order + kind) if encoding == "raw" else None


def _voxels(raw: bytes, kind: str) -> NDArray[np.float64]:
    whole = len(raw) // np.dtype(kind).itemsize
    return np.frombuffer(raw, kind, whole).astype(np.float64)


def _finding(code: str, reason: str) -> Finding:
    return Finding(code, reason, FIX[code])
