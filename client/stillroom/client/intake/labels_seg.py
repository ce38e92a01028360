"""DICOM Segmentation objects: binary, fractional and label map (DICOM PS3.3 A.51, C.8.20).

A SEG need not store empty frames, may hold segments that overlap, and may have a grid of its
own. Its frames are put into a volume by their positions and that is laid over the scan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.labels_grid import MAX_VOXELS, onto
from stillroom.common.errors import DataError

ON_PLANE = 0.02
"""Share of the slice spacing by which a frame may lie beside its plane."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame's place.

    Attributes:
        segment: Segment number; 0 in a label map, whose pixels say it themselves.
        position_mm: Centre of its first pixel, (3,), LPS.
        orientation: Directions of a row and of a column, (2, 3).
        pixel_mm: Distance between rows and between columns (PS3.3 10.7.1.3).
        between_mm: Distance between slices as the file says it; None when it does not.
    """

    segment: int
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_mm: tuple[float, float]
    between_mm: float | None


def read_header(file: Path) -> pydicom.Dataset:
    """A DICOM file; its pixels are decoded only when asked for.

    Raises:
        DataError: Not DICOM or damaged (STR-431).
    """
    try:
        return pydicom.dcmread(file, defer_size="1 MB")
    except Exception as error:
        raise _unreadable("A label file cannot be read as DICOM.") from error


def read(
    data: pydicom.Dataset,
    study_classes: Sequence[str],
    classes: Mapping[str, int | str],
    reference: sitk.Image,
) -> NDArray[np.uint8]:
    """Class indices of a SEG on the grid of ``reference``; see ``labels.read_mask``."""
    numbers = _segment_numbers(data, study_classes, classes)
    try:
        frames = read_frames(data)
        pixels = _pixels(data, len(frames))
    except DataError:
        raise
    except Exception as error:
        raise _unreadable("A DICOM SEG lacks the place or the pixels of its frames.") from error
    stack = _stack(frames, (int(data.Rows), int(data.Columns)), reference)
    volume = np.zeros(stack.shape, np.uint8)
    is_labelmap = str(data.get("SegmentationType")) == "LABELMAP"
    threshold = _threshold(data)
    for index, name in enumerate(study_classes, 1):
        if name not in numbers:
            continue
        for frame, k, plane in zip(frames, stack.planes, pixels, strict=True):
            if is_labelmap:
                volume[k][plane == numbers[name]] = index
            elif frame.segment == numbers[name]:
                volume[k][plane >= threshold] = index
    return onto(stack.image(volume), reference)


def contents(data: pydicom.Dataset) -> dict[int, str]:
    """Number and label of every segment but the background of a label map."""
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel") or item.SegmentNumber)
        for item in data.get("SegmentSequence") or []
        if int(item.get("SegmentNumber", 0)) > 0
    }


@dataclass(frozen=True, slots=True)
class Stack:
    """The grid that a SEG's frames fill, and the plane ``k`` of each."""

    shape: tuple[int, int, int]
    planes: list[int]
    origin_mm: NDArray[np.float64]
    direction: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]

    def image(self, volume: NDArray[np.uint8]) -> sitk.Image:
        """``volume`` (D, H, W) with this grid."""
        image = sitk.GetImageFromArray(volume)
        image.SetOrigin([float(v) for v in self.origin_mm])
        image.SetSpacing(self.spacing_mm)
        image.SetDirection([float(v) for v in self.direction.ravel()])
        return image


def _segment_numbers(
    data: pydicom.Dataset, study_classes: Sequence[str], classes: Mapping[str, int | str]
) -> dict[str, int]:
    """Study class -> segment number, for those the file has."""
    by_name: dict[str, list[int]] = {}
    present: set[int] = set()
    for item in data.get("SegmentSequence") or []:
        number = int(item.get("SegmentNumber", -1))
        present.add(number)
        by_name.setdefault(str(item.get("SegmentLabel", "")).strip().lower(), []).append(number)
    found: dict[str, int] = {}
    for name in study_classes:
        wanted = classes.get(name)
        if isinstance(wanted, int):
            numbers = [wanted] if wanted in present else []
        else:
            numbers = by_name.get(str(wanted).strip().lower(), []) if wanted else []
        if len(numbers) > 1:
            raise _unreadable(f"Two segments of a DICOM SEG carry the name meant by {name}.")
        if numbers:
            found[name] = numbers[0]
    if not found:
        raise _unreadable(f"A DICOM SEG has no segment for {', '.join(study_classes)}.")
    return found


def read_frames(data: pydicom.Dataset) -> list[Frame]:
    """The place of every frame, in the order of the pixels."""
    shared = data.SharedFunctionalGroupsSequence[0]
    frames = []
    for group in data.PerFrameFunctionalGroupsSequence:
        measures = _group(group, shared, "PixelMeasuresSequence")
        between = measures.get("SpacingBetweenSlices")
        rows_mm, columns_mm = (float(v) for v in measures.PixelSpacing)
        plane = _group(group, shared, "PlaneOrientationSequence").ImageOrientationPatient
        position = _group(group, shared, "PlanePositionSequence").ImagePositionPatient
        segment = 0
        if str(data.get("SegmentationType")) != "LABELMAP":
            identification = _group(group, shared, "SegmentIdentificationSequence")
            segment = int(identification.ReferencedSegmentNumber)
        frames.append(
            Frame(
                segment=segment,
                position_mm=np.asarray(position, np.float64),
                orientation=np.asarray(plane, np.float64).reshape(2, 3),
                pixel_mm=(rows_mm, columns_mm),
                between_mm=float(between) if between else None,
            )
        )
    if not frames:
        raise _unreadable("A DICOM SEG has no frame.")
    return frames


def _group(frame: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> Any:
    return (frame[name] if name in frame else shared[name]).value[0]


def _pixels(data: pydicom.Dataset, frames: int) -> NDArray[np.uint8]:
    """``(N, H, W)``; any whole-number dtype."""
    rows, columns = int(data.Rows), int(data.Columns)
    if frames * rows * columns > MAX_VOXELS:
        raise DataError(
            "A DICOM SEG is larger than any cardiac CT.",
            fix="Check the file; it may be damaged.",
            code="STR-422",
        )
    return data.pixel_array.reshape(frames, rows, columns)


def _threshold(data: pydicom.Dataset) -> float:
    """Least stored value that counts: half of the maximum in a fractional SEG, else 1."""
    if str(data.get("SegmentationType")) != "FRACTIONAL":
        return 1
    return float(data.get("MaximumFractionalValue", 255)) / 2


def _stack(frames: Sequence[Frame], size: tuple[int, int], reference: sitk.Image) -> Stack:
    first = frames[0]
    if any(not np.allclose(f.orientation, first.orientation, atol=1e-4) for f in frames):
        raise _unreadable("The frames of a DICOM SEG have different orientations.")
    row, column = first.orientation
    normal = np.cross(row, column)
    offsets = np.asarray([f.position_mm - first.position_mm for f in frames])
    depths = offsets @ normal
    aside = offsets - depths[:, None] * normal
    if np.abs(aside).max() > ON_PLANE * min(first.pixel_mm):
        raise _unreadable("The frames of a DICOM SEG are shifted against each other.")
    step = _step(depths - depths.min(), first.between_mm, _along(reference, normal))
    planes = np.rint((depths - depths.min()) / step).astype(int)
    return Stack(
        shape=(int(planes.max()) + 1, *size),
        planes=planes.tolist(),
        origin_mm=frames[int(depths.argmin())].position_mm,
        direction=np.stack([row, column, normal], axis=1),
        spacing_mm=(first.pixel_mm[1], first.pixel_mm[0], step),
    )


def _along(reference: sitk.Image, normal: NDArray[np.float64]) -> float | None:
    """Slice spacing of the scan along ``normal``; None when no axis of it runs that way."""
    matrix = Grid.of(reference).steps_mm
    lengths = np.linalg.norm(matrix, axis=0)
    cosines = np.abs(normal @ matrix) / lengths
    axis = int(cosines.argmax())
    return float(lengths[axis]) if cosines[axis] > 1 - 1e-4 else None


def _step(depths: NDArray[np.float64], said: float | None, scan: float | None) -> float:
    """A spacing of which every depth (mm, from 0) is a whole multiple.

    The scan's own spacing comes first: writers leave empty frames out, so the least gap in the
    file may be several slices, and SpacingBetweenSlices is often missing or rounded.
    """
    gaps = np.diff(np.unique(np.round(depths, 3)))
    least = float(gaps.min()) if gaps.size else None
    for step in (scan, said, least):
        if step and np.abs(depths / step - np.rint(depths / step)).max() <= ON_PLANE:
            if depths.max() / step > 4096:
                break
            return step
    raise _unreadable("The frames of a DICOM SEG are not evenly spaced.")


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Export the segmentation again, and name its segments in `classes`.",
        code="STR-431",
    )
