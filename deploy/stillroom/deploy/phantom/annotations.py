"""The truth about a case in the formats hospitals use: NIfTI, NRRD, DICOM SEG, Slicer markups, CSV."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from stillroom.deploy.phantom.anatomy import POINTS
from stillroom.deploy.phantom.painting import Case, Mask

CSV_HEADER = ("series", "name", "x", "y", "z")
"""Columns of a points table: SeriesInstanceUID, name, millimetres in LPS."""
Row = tuple[str, Mapping[str, tuple[float, float, float]]]
"""SeriesInstanceUID of a scan and its points."""
BURDEN = ("light", "heavy")
"""Classes of the calcification of a whole scan."""
HEAVY_MM3 = 300.0
"""About the median of the phantoms; no clinical threshold."""


def write_mask(case: Case, mask: Mask, path: Path) -> None:
    """Write a label map beside the scan's geometry; the suffix (.nii.gz, .nrrd) decides the format."""
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing([float(v) for v in case.spacing_mm])
    image.SetOrigin([float(v) for v in case.origin_mm])
    image.SetDirection([float(v) for v in case.direction.ravel()])
    sitk.WriteImage(image, str(path), useCompression=True)


def write_seg(mask: Mask, names: Sequence[str], files: Sequence[Path], path: Path) -> None:
    """Write a DICOM SEG whose segment ``k + 1`` is called ``names[k]`` and holds ``mask == k + 1``.

    Args:
        mask: (D, H, W), slices in the order of ``files``.
        names: Segment labels.
        files: The series that the segmentation refers to, as ``write_series`` returns it.
        path: File to write.
    """
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    series = str(images[0].SeriesInstanceUID)
    seg = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(names),
        series_instance_uid=generate_uid(entropy_srcs=[series, "seg"]),
        series_number=100,
        sop_instance_uid=generate_uid(entropy_srcs=[series, "seg", "1"]),
        instance_number=1,
        manufacturer="stillroom",
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="0",
        omit_empty_frames=True,
    )
    _freeze(seg, images[0])
    seg.save_as(path)


def _segments(names: Sequence[str]) -> list[highdicom.seg.SegmentDescription]:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="stillroom phantom", version="1", family=codes.DCM.ManualProcessing
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_CODES.get(name, codes.SCT.AnatomicalStructure),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for k, name in enumerate(names)
    ]


def _freeze(seg: Dataset, image: Dataset) -> None:
    """Replace what the library draws from the clock or at random: two runs write the same bytes."""
    seg.ContentDate, seg.ContentTime = image.ContentDate, image.ContentTime
    for name in ("SeriesDate", "SeriesTime", "InstanceCreationDate", "InstanceCreationTime"):
        if name in seg:
            delattr(seg, name)
    for item in seg.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = "20260105101500"
    organisation = generate_uid(entropy_srcs=[str(seg.SeriesInstanceUID), "dimensions"])
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation


_CODES = {"AO": codes.SCT.Aorta, "PA": codes.SCT.PulmonaryArtery}


def write_markups(points: Mapping[str, tuple[float, float, float]], path: Path) -> None:
    """Write points as a 3D Slicer markups file (schema 1.0.3), LPS mm.

    A point outside the field of view is listed as undefined, as an annotator would leave it.
    """
    control = [
        {
            "id": str(k + 1),
            "label": name,
            "description": "",
            "associatedNodeID": "",
            "position": list(points.get(name, (0.0, 0.0, 0.0))),
            "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined" if name in points else "undefined",
        }
        for k, name in enumerate(POINTS)
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/"
        "Markups/Resources/Schema/markups-schema-v1.0.3.json#"
    )
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "controlPoints": control,
    }
    path.write_text(json.dumps({"@schema": schema, "markups": [markup]}, indent=1), "utf-8")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the points of several scans as one CSV with the columns of ``CSV_HEADER``."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(CSV_HEADER)
        for series, points in rows:
            for name in POINTS:
                mm = points.get(name)
                # Out of view: a row without coordinates, so that nobody takes it for forgotten.
                cells = ["", "", ""] if mm is None else [f"{v:.6f}" for v in mm]
                table.writerow([series, name, *cells])


def burden_of(case: Case) -> str:
    """What a report would say of a scan's calcification: the volume of its plaques as a class."""
    voxels = float((case.calcification > 0).sum())
    return BURDEN[voxels * math.prod(case.spacing_mm) > HEAVY_MM3]


def write_classes(rows: Sequence[tuple[str, str]], path: Path) -> None:
    """Write (SeriesInstanceUID, class) of several scans as one CSV."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("series", "class"))
        table.writerows(rows)
