"""True labels in the formats hospitals have, read onto the grid of their scan.

| format | suffix | class or point found by |
|---|---|---|
| label map | ``.nii .nii.gz .nrrd .nhdr .mha .mhd`` | voxel value; or name in a ``.seg.nrrd`` |
| DICOM SEG | any | segment number or segment label |
| RTSTRUCT | any | ROI number or ROI name |
| 3D Slicer markups | ``.json`` | control point's label |
| CSV of points | ``.csv`` | column ``name`` |
| CSV of classes of whole scans | ``.csv`` | column ``class`` (``labels_bags``) |

Names are compared without regard to case. No message here ever quotes a file, a name found in
a file or a coordinate: they may say who the patient is.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake import labels_grid, labels_points, labels_rtstruct, labels_seg
from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.store import Point
from stillroom.common.errors import DataError
from stillroom.common.study import MaskLabel, PointsLabel

GRID_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
POINT_SUFFIXES = (".json", ".csv")

SEG_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""SOP classes Segmentation Storage and Label Map Segmentation Storage (PS3.4 B.5)."""
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


def is_grid(file: Path) -> bool:
    """Whether the name says NIfTI, NRRD or MetaImage."""
    return file.name.lower().endswith(GRID_SUFFIXES)


def is_points(file: Path) -> bool:
    """Whether the name says markups JSON or CSV."""
    return file.name.lower().endswith(POINT_SUFFIXES)


def read_mask(
    file: Path,
    label: MaskLabel,
    classes: Mapping[str, int | str] | None,
    reference: sitk.Image,
    *,
    absent_is_background: bool = False,
) -> NDArray[np.uint8]:
    """Class indices of ``label`` on the grid of ``reference``, ``(D, H, W)``, 0 = background.

    Where two segments overlap, the class that the study lists last wins: nested structures are
    written outermost first.

    Args:
        file: A label map, DICOM SEG or RTSTRUCT.
        label: Its ``classes`` become the values 1..n.
        classes: Study class -> voxel value, segment or ROI number, or name. When None: values
            1..n in the study's order for label maps, and the study's own names elsewhere.
        reference: The scan the label belongs to.
        absent_is_background: Accept a file in which no class occurs: a scan without the finding.

    Raises:
        DataError: Unreadable or none of the classes found (STR-431); outside the scan or
            between its slices (STR-432); larger than any scan (STR-422).
    """
    if is_grid(file):
        mask = labels_grid.read(file, label.classes, classes, reference)
    else:
        wanted = classes or {name: name for name in label.classes}
        with warnings.catch_warnings():
            # pydicom warns with the odd value in the text, which may be a patient's.
            warnings.simplefilter("ignore")
            try:
                mask = _read_dicom(file, label, wanted, reference)
            except DataError:
                raise
            except Exception as error:  # pydicom parses late, so damage shows anywhere
                raise DataError(
                    "A DICOM label is damaged.", fix="Export the label again.", code="STR-431"
                ) from error
    if not absent_is_background and not mask.any():
        raise DataError(
            f"A mask holds no voxel of {', '.join(label.classes)}.",
            fix="Check `classes` of this label; if the finding is truly absent, set"
            " `absent_is_background = true`.",
            code="STR-431",
        )
    return mask


def _read_dicom(
    file: Path, label: MaskLabel, wanted: Mapping[str, int | str], reference: sitk.Image
) -> NDArray[np.uint8]:
    header = labels_seg.read_header(file)
    sop_class = str(header.get("SOPClassUID", ""))
    if sop_class in SEG_CLASSES:
        return labels_seg.read(header, label.classes, wanted, reference)
    if sop_class == RTSTRUCT_CLASS:
        return labels_rtstruct.read(header, label.classes, wanted, reference)
    raise DataError(
        "A label file is neither a label map nor a DICOM SEG or RTSTRUCT.",
        fix="Point the label's `files` pattern at segmentations only.",
        code="STR-431",
    )


def read_points(
    file: Path,
    label: PointsLabel,
    names: Mapping[str, str] | None,
    reference: sitk.Image,
    *,
    series: Iterable[str] = (),
    label_name: str = "",
) -> dict[str, Point | None]:
    """Positions of a label's points in LPS mm, None where the annotator marked one as not visible.

    Args:
        file: 3D Slicer markups JSON or CSV.
        label: Its ``names`` are the keys of the result, all of them.
        names: Study name -> name in the file; the study's own names when None.
        reference: The scan; every point must lie in its field of view.
        series: What this scan may be called in a CSV's column ``series``: its UID, its stem.
        label_name: Rows whose column ``label`` says another one are left out.

    Raises:
        DataError: Unreadable, a name missing or twice (STR-431); a point outside (STR-432).
    """
    if file.name.lower().endswith(".csv"):
        found = labels_points.rows_of(labels_points.read_csv(file), series, label_name)
    elif file.name.lower().endswith(".json"):
        found = labels_points.read_markups(file)
    else:
        raise DataError(
            "A points label is neither a markups JSON nor a CSV.",
            fix="Export the points as 3D Slicer markups or as CSV.",
            code="STR-431",
        )
    points = labels_points.select(found, label.names, names or {})
    placed = np.asarray([mm for mm in points.values() if mm is not None], np.float64)
    if placed.size and not Grid.of(reference).holds(placed).all():
        raise DataError(
            "A point lies outside the field of view of its scan.",
            fix="Check that the points belong to this series and are LPS or RAS as declared.",
            code="STR-432",
        )
    return points
