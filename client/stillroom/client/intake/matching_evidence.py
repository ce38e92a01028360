"""What a label file says about the scan it belongs to: UIDs, geometry, points. Headers only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from stillroom.client.intake import labels_bags, labels_points, labels_rtstruct, labels_seg
from stillroom.client.intake.catalogue import Entry, LabelCandidate
from stillroom.client.intake.geometry import Grid, Points
from stillroom.client.intake.labels_bags import Judgement
from stillroom.client.intake.labels_points import NamedPoint
from stillroom.common.errors import DataError

SUFFIXES = (".nii.gz", ".seg.nrrd", ".mrk.json")
"""Double ones; ``Path.stem`` would leave half of them."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a label file says about its scan.

    Attributes:
        series_uids: Series that it references.
        frame_uids: Frames of reference that it is on.
        grid: Of a label map.
        points: ``(N, 3)`` LPS mm of what names no series: a frame's or a contour's first voxel,
            or the points themselves. None when every point names its series.
        by_series: Series as a CSV names it -> its points ``(N, 3)``; none in a table of classes.
    """

    series_uids: frozenset[str] = frozenset()
    frame_uids: frozenset[str] = frozenset()
    grid: Grid | None = None
    points: Points | None = None
    by_series: Mapping[str, Points] = field(default_factory=dict)


def of(candidate: LabelCandidate) -> Evidence:
    """Read a candidate's header.

    Raises:
        DataError: Unreadable (STR-431).
    """
    match candidate.format:
        case "seg":
            return _of_seg(labels_seg.read_header(candidate.path))
        case "rtstruct":
            return _of_rtstruct(labels_seg.read_header(candidate.path))
        case "mask":
            return Evidence(grid=_grid(candidate.path))
        case "markups":
            return _of_points(labels_points.read_markups(candidate.path))
        case "csv":
            if labels_bags.is_table(candidate.path):
                return _of_classes(labels_bags.read_table(candidate.path))
            return _of_points(labels_points.read_csv(candidate.path))


def grid_of(entry: Entry) -> Grid:
    """The grid of a series as its headers say."""
    return Grid.make(entry.size, entry.spacing_mm, entry.origin_mm, entry.direction)


def names_of(entry: Entry) -> frozenset[str]:
    """What a label may call a scan: its series UID, its file's stem or its folder of slices."""
    first = entry.files[0]
    own = first.parent.name if entry.kind in {"dicom", "pictures"} else stem_of(first)
    return frozenset(name for name in (entry.series_uid, own) if name)


def stem_of(path: Path) -> str:
    """File name without its suffix, double ones included."""
    name = path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def is_called_after(stem: str, name: str) -> bool:
    """Whether ``stem`` is ``name``, or ``name`` and more after a separator."""
    rest = stem[len(name) :]
    return stem.startswith(name) and (not rest or rest[0] in "_-. ")


def shared_depth(a: Path, b: Path) -> int:
    """Number of leading folders that two paths share."""
    depth = 0
    for left, right in zip(a.parts, b.parts, strict=False):
        if left != right:
            break
        depth += 1
    return depth


def is_inside(entry: Entry, points: Points) -> bool:
    """Whether all positions (mm) lie in an accepted scan's field of view."""
    return entry.accepted and bool(grid_of(entry).holds(points).all())


def is_on_slices(grid: Grid, points: Points) -> bool:
    """Whether all positions (mm) lie on slices of the grid; they may lie beside it in the plane."""
    depth = grid.to_index(points)[:, 2]
    on = np.abs(depth - np.rint(depth)) <= labels_rtstruct.BESIDE_SLICE
    return bool((on & (depth > -0.5) & (depth < grid.size[2] - 0.5)).all())


def _of_seg(data: pydicom.Dataset) -> Evidence:
    try:
        uids = [str(item.SeriesInstanceUID) for item in data.get("ReferencedSeriesSequence") or []]
        frame = data.get("FrameOfReferenceUID")
        places = [f.position_mm for f in labels_seg.read_frames(data)]
    except DataError:
        raise
    except Exception as error:
        raise _unreadable() from error
    return Evidence(
        frozenset(uids), frozenset([str(frame)] if frame else []), points=np.asarray(places)
    )


def _of_rtstruct(data: pydicom.Dataset) -> Evidence:
    uids: set[str] = set()
    frames: set[str] = set()
    try:
        for reference in data.get("ReferencedFrameOfReferenceSequence") or []:
            if reference.get("FrameOfReferenceUID"):
                frames.add(str(reference.FrameOfReferenceUID))
            for study in reference.get("RTReferencedStudySequence") or []:
                for series in study.get("RTReferencedSeriesSequence") or []:
                    uids.add(str(series.SeriesInstanceUID))
    except Exception as error:
        raise _unreadable() from error
    contours = [c for many in labels_rtstruct.read_contours(data).values() for c in many]
    first = np.asarray([contour[0] for contour in contours]).reshape(-1, 3)
    return Evidence(frozenset(uids), frozenset(frames), points=first)


def _of_points(points: list[NamedPoint]) -> Evidence:
    by_series: dict[str, list[NamedPoint]] = {}
    for point in points:
        by_series.setdefault(point.series, []).append(point)
    placed = {
        name: np.asarray([p.mm for p in many if p.mm is not None], np.float64).reshape(-1, 3)
        for name, many in by_series.items()
    }
    return Evidence(points=placed.pop("", None), by_series=placed)


def _of_classes(rows: list[Judgement]) -> Evidence:
    judged = [row.series for row in rows if row.value]
    return Evidence(by_series={name: np.empty((0, 3)) for name in judged})


def _grid(file: Path) -> Grid:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        if len(reader.GetSize()) < 3:
            raise _unreadable()
        return Grid.of(reader)
    except RuntimeError as error:
        raise _unreadable() from error


def _unreadable() -> DataError:
    return DataError(
        "A label file's header cannot be read.", fix="Export the label again.", code="STR-431"
    )
