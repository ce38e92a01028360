"""An accepted entry as one volume of Hounsfield units.

GDCM decodes single-frame series and ITK reads NIfTI and NRRD. The grid is the catalogue's, which
was computed from every slice; ITK's own would take the slice distance from two of them.
Multi-frame files are assembled here, because GDCM applies one rescale to all frames.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake import pictures
from stillroom.client.intake.catalogue import Entry, Finding
from stillroom.client.intake.grid_files import BAD_NAME, is_utf8, read_grid
from stillroom.client.intake.headers import SliceHeader, read_slices
from stillroom.client.intake.quality import Limits, check_slices
from stillroom.client.intake.stacking import stack
from stillroom.common.errors import DataError

INT16 = np.iinfo(np.int16)
GRID_MM = 1e-3
"""A slice that moved by more since the scan is another slice."""


def load_volume(entry: Entry, *, max_voxels: int = 2**31) -> sitk.Image:
    """Hounsfield units on the entry's grid, int16 where every stored value fits, else float32.

    Of pictures, grey from 0 to 255 in their place.

    Headers are read once more: a file may have been replaced or cut since the scan.

    Args:
        entry: An accepted entry of a catalogue.
        max_voxels: Checked against the headers before anything is allocated.

    Raises:
        DataError: The entry is quarantined, or its files no longer pass (the finding's code);
            decoding fails (STR-418).
    """
    if entry.findings:
        raise _refusal(entry.findings[0])
    if entry.kind == "pictures":
        image = pictures.read(entry.files, entry.size)
        image.SetSpacing(entry.spacing_mm)
        return image
    if not all(is_utf8(path) for path in entry.files):
        raise _refusal(BAD_NAME)
    if entry.kind in {"nifti", "nrrd"}:
        return _load_grid(entry, max_voxels)
    slices = _headers(entry, Limits(min_slices=1, max_voxels=max_voxels))
    if entry.kind == "dicom-multiframe":
        image = _load_frames(slices)
    else:
        image = _load_series([str(header.path) for header in slices], _pixel_type(slices))
    if image.GetSize() != entry.size:
        raise _undecodable()
    image.SetSpacing(entry.spacing_mm if entry.spacing_mm[2] > 0 else (*entry.spacing_mm[:2], 1.0))
    image.SetOrigin(entry.origin_mm)
    image.SetDirection(entry.direction)
    return image


def _headers(entry: Entry, limits: Limits) -> Sequence[SliceHeader]:
    """Today's headers in the order of the catalogue's grid.

    Raises:
        DataError: They are not what the catalogue says.
    """
    slices = [header for path in entry.files for header in read_slices(path) or ()]
    if not slices:
        raise _changed()
    if findings := check_slices(slices, limits):
        raise _refusal(findings[0])
    ordered = stack(slices)
    moved = np.abs(np.subtract(ordered.origin_mm, entry.origin_mm)).max()
    scaled = np.abs(np.subtract(ordered.spacing_mm, entry.spacing_mm)).max()
    if ordered.size != entry.size or moved > GRID_MM or scaled > GRID_MM:
        raise _changed()
    return ordered.slices


def _pixel_type(slices: Sequence[SliceHeader]) -> int:
    """int16 if every value that could be stored is a whole HU within int16, else float32.

    Decided for the series as a whole: a rescale may differ from slice to slice, and ITK would
    take the type of the first slice and cut the decimals of the others.
    """
    for header in slices:
        slope, intercept = header.slope or 0.0, header.intercept or 0.0
        bits = _bits(header)
        low = -(2 ** (bits - 1)) if header.is_signed else 0
        ends = [slope * value + intercept for value in (low, low + 2**bits - 1)]
        is_whole = slope.is_integer() and intercept.is_integer()
        if not is_whole or min(ends) < INT16.min or max(ends) > INT16.max:
            return int(sitk.sitkFloat32)
    return int(sitk.sitkInt16)


def _bits(header: SliceHeader) -> int:
    """Bits that carry a value; BitsStored where it makes sense."""
    return min(header.bits_stored or header.bits_allocated, header.bits_allocated)


def _load_series(files: Sequence[str], pixel_type: int) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(files)
    reader.SetOutputPixelType(pixel_type)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise _undecodable() from error


def _load_grid(entry: Entry, max_voxels: int) -> sitk.Image:
    """A NIfTI, NRRD or MetaImage file."""
    today = read_grid(entry.files[0], Limits(min_slices=1, max_voxels=max_voxels))
    if today.findings:
        raise _refusal(today.findings[0])
    if today.size != entry.size:
        raise _changed()
    try:
        image = sitk.ReadImage(str(entry.files[0]))
    except RuntimeError as error:
        raise _undecodable() from error
    if image.GetPixelID() in {sitk.sitkInt16, sitk.sitkFloat32}:
        return image
    limits = sitk.MinimumMaximumImageFilter()
    limits.Execute(image)
    is_float = image.GetPixelID() == sitk.sitkFloat64
    fits = limits.GetMinimum() >= INT16.min and limits.GetMaximum() <= INT16.max
    return sitk.Cast(image, sitk.sitkInt16 if fits and not is_float else sitk.sitkFloat32)


def _load_frames(slices: Sequence[SliceHeader]) -> sitk.Image:
    """An enhanced CT: frames in the order of ``slices``, each with its own rescale."""
    first = slices[0]
    stored = _frames_stored(first) if first.offset is not None else _frames_decoded(first.path)
    if stored.shape != (first.frames, first.rows, first.columns):
        raise _undecodable()
    dtype = np.int16 if _pixel_type(slices) == sitk.sitkInt16 else np.float32
    out = np.empty((len(slices), first.rows, first.columns), dtype)
    for place, header in enumerate(slices):
        # Bits above the stored ones may hold overlays, or lack the sign (PS3.5 8.1.1).
        shift = 8 * stored.dtype.itemsize - _bits(header)
        whole = stored[header.frame] << shift >> shift
        out[place] = whole * (header.slope or 1.0) + (header.intercept or 0.0)
    return sitk.GetImageFromArray(out)


def _frames_stored(header: SliceHeader) -> NDArray[np.integer[Any]]:
    """Uncompressed frames ``(F, H, W)`` as they are in the file, memory-mapped."""
    big = header.transfer_syntax == "1.2.840.10008.1.2.2"
    size = header.bits_allocated // 8
    dtype = np.dtype(f"{'>' if big else '<'}{'i' if header.is_signed else 'u'}{size}")
    shape = (header.frames, header.rows, header.columns)
    try:
        return np.memmap(header.path, dtype, "r", header.offset or 0, shape)
    except (OSError, ValueError) as error:
        raise _undecodable() from error


def _frames_decoded(path: Path) -> NDArray[np.integer[Any]]:
    """Compressed frames ``(F, H, W)`` by whichever decoder pydicom finds."""
    try:
        pixels: NDArray[np.integer[Any]] = pydicom.dcmread(path).pixel_array
    except Exception as error:
        raise _undecodable() from error
    if not np.issubdtype(pixels.dtype, np.integer):
        raise _undecodable()
    return pixels if pixels.ndim == 3 else pixels[None]


def _refusal(finding: Finding) -> DataError:
    return DataError(finding.reason, fix=finding.fix, code=finding.code)


def _changed() -> DataError:
    return DataError(
        "The files of a series are not those that were scanned.",
        fix="Run `stillroom-client data scan` again.",
        code="STR-410",
    )


def _undecodable() -> DataError:
    return DataError(
        "Pixel data cannot be decoded to the size that the headers claim.",
        fix="Export the series again, uncompressed if the PACS can.",
        code="STR-418",
    )
