"""RT Structure Sets: contours in mm, filled onto the scan's slices (DICOM PS3.3 C.8.8.6).

A voxel belongs to a region when its centre lies inside by the even-odd rule over all contours
of that region on that slice, so an inner contour (or a keyhole) cuts a hole. A centre exactly
on an edge belongs to one side only: regions that share an edge never share a voxel.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid
from stillroom.common.errors import DataError

BESIDE_SLICE = 0.1
"""Slices by which a contour may lie beside its slice: coordinates are rounded to 0.01 mm."""

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})


def read(
    data: pydicom.Dataset,
    study_classes: Sequence[str],
    classes: Mapping[str, int | str],
    reference: sitk.Image,
) -> NDArray[np.uint8]:
    """Class indices of an RTSTRUCT on the grid of ``reference``; see ``labels.read_mask``."""
    regions = _regions(data, study_classes, classes)
    out = np.zeros(reference.GetSize()[::-1], np.uint8)
    for index, name in enumerate(study_classes, 1):
        contours = regions.get(name, [])
        if contours:
            out[fill(contours, reference)] = index
    return out


def contents(data: pydicom.Dataset) -> dict[int, str]:
    """Number and name of every region that has closed contours."""
    drawn = read_contours(data)
    return {
        int(item.ROINumber): str(item.get("ROIName") or item.ROINumber)
        for item in data.get("StructureSetROISequence") or []
        if int(item.get("ROINumber", -1)) in drawn
    }


def fill(contours: Sequence[NDArray[np.float64]], reference: sitk.Image) -> NDArray[np.bool_]:
    """Voxels inside closed planar contours, ``(D, H, W)``.

    Args:
        contours: Each ``(N, 3)`` in LPS mm; the last vertex joins the first.
        reference: The scan whose slices they were drawn on.

    Raises:
        DataError: A contour lies between, across or beyond the slices (STR-432).
    """
    grid = Grid.of(reference)
    columns, rows, slices = grid.size
    toggles = np.zeros((slices, rows, columns + 1), np.int32)
    for contour in contours:
        index = grid.to_index(contour)
        k = round(float(index[:, 2].mean()))
        if np.abs(index[:, 2] - k).max() > BESIDE_SLICE:
            raise _outside("A contour does not lie on a slice of its scan.")
        if not 0 <= k < slices:
            raise _outside("A contour lies beyond the first or last slice of its scan.")
        row, column = crossings(index[:, :2], rows, columns)
        np.add.at(toggles[k], (row, column), 1)
    if contours and not toggles[:, :, :columns].any():
        raise _outside("Contours lie beside their scan.")
    return (np.cumsum(toggles[:, :, :columns], axis=2) % 2).astype(bool)


def crossings(
    polygon: NDArray[np.float64], rows: int, columns: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the lines through pixel centres enter or leave a polygon.

    Every edge covers the rows of ``low < row <= high``, half open, so that a vertex on a row
    counts once. A crossing at ``x`` toggles all pixels from ``ceil(x)`` on; two toggles cancel.

    Args:
        polygon: ``(N, 2)``, columns first, in pixels.
        rows: Height of the slice.
        columns: Width of the slice.

    Returns:
        Row and first toggled column, in ``[0, rows)`` and ``[0, columns]``.
    """
    start, end = polygon, np.roll(polygon, -1, axis=0)
    low = np.minimum(start[:, 1], end[:, 1])
    high = np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.floor(low) + 1, 0, rows).astype(np.intp)
    stop = np.clip(np.floor(high) + 1, 0, rows).astype(np.intp)
    count = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(polygon)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    a, b = start[edge], end[edge]
    x = a[:, 0] + (row - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return row, np.clip(np.ceil(x), 0, columns).astype(np.intp)


def _regions(
    data: pydicom.Dataset, study_classes: Sequence[str], classes: Mapping[str, int | str]
) -> dict[str, list[NDArray[np.float64]]]:
    """Study class -> its contours in mm; a class whose region is absent has no entry."""
    by_name: dict[str, list[int]] = {}
    for item in data.get("StructureSetROISequence") or []:
        name = str(item.get("ROIName", "")).strip().lower()
        by_name.setdefault(name, []).append(int(item.get("ROINumber", -1)))
    contours = read_contours(data)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for name in study_classes:
        wanted = classes.get(name)
        if wanted is None:
            continue
        present = {number for numbers in by_name.values() for number in numbers}
        if isinstance(wanted, int):
            numbers = [wanted] if wanted in present else []
        else:
            numbers = by_name.get(wanted.strip().lower(), [])
        if len(numbers) > 1:
            raise _unreadable(f"Two regions of an RTSTRUCT carry the name meant by {name}.")
        if numbers:
            found[name] = contours.get(numbers[0], [])
    if not found:
        raise _unreadable(f"An RTSTRUCT has no region for {', '.join(study_classes)}.")
    return found


def read_contours(data: pydicom.Dataset) -> dict[int, list[NDArray[np.float64]]]:
    """ROI number -> closed contours ``(N, 3)`` in mm. Points and open lines enclose nothing."""
    found: dict[int, list[NDArray[np.float64]]] = {}
    try:
        for region in data.get("ROIContourSequence") or []:
            number = int(region.ReferencedROINumber)
            for contour in region.get("ContourSequence") or []:
                if str(contour.get("ContourGeometricType")) not in CLOSED:
                    continue
                vertices = np.asarray(contour.ContourData, np.float64).reshape(-1, 3)
                if len(vertices) >= 3 and np.isfinite(vertices).all():
                    found.setdefault(number, []).append(vertices)
    except Exception as error:
        raise _unreadable("An RTSTRUCT's contours cannot be read.") from error
    return found


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Export the structure set again, and name its regions in `classes`.",
        code="STR-431",
    )


def _outside(what: str) -> DataError:
    return DataError(
        what,
        fix="Export the structure set on this very series, or convert it to a label map.",
        code="STR-432",
    )
