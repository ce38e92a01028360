"""A prediction as files. Every name is made of the study's own words; nothing of the scan is in it.

::

    <label>.nii.gz      one per mask label, on the scan's grid
    <label>.mrk.json    one per points label, 3D Slicer markups
    segmentation.dcm    for DICOM input: all mask labels as one DICOM SEG
    overlay.png         three planes
    prediction.json     what is where; written last
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.picture import three_planes
from stillroom.client.predict.dicom_seg import Layer, write_segmentation
from stillroom.client.predict.markups import write_markups
from stillroom.client.predict.segmentation import Findings
from stillroom.client.predict.source import Source
from stillroom.client.release import Release
from stillroom.client.training.device import Device
from stillroom.client.training.targets import Point
from stillroom.common.errors import DataError

FORMAT = "stillroom-prediction-1"
NOTICE = "Research only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True, slots=True)
class Context:
    """What a prediction was made with.

    Attributes:
        source: The scan.
        release: The model.
        device: The processor.
        threads: CPU threads.
    """

    source: Source
    release: Release
    device: Device
    threads: int


def write_results(findings: Findings, context: Context, out: Path) -> dict[str, Any]:
    """Write everything into the existing folder ``out`` and return ``prediction.json``'s content."""
    study, source = context.release.study, context.source
    labels: dict[str, Any] = {}
    layers: dict[str, Layer] = {}
    for name, mask in findings.masks.items():
        classes = study.label[name].classes
        file = f"{name}.nii.gz"
        write_mask(out / file, mask, source.image)
        labels[name] = {"file": file, "classes": {c: n for n, c in enumerate(classes, start=1)}}
        layers[name] = Layer(name, classes, mask)
    for name, points in findings.points.items():
        write_markups(out / f"{name}.mrk.json", points)
    dicom_seg = _dicom_seg(out, layers, context, findings) if source.dicom_files else None
    _overlay(findings, context).save(out / "overlay.png")
    box = findings.place.box_mm
    about = {
        "format": FORMAT,
        "notice": NOTICE,
        "labels": labels,
        "points": {
            name: {point: None if mm is None else _rounded(mm) for point, mm in points.items()}
            for name, points in findings.points.items()
        },
        "dicom_seg": dicom_seg,
        "input": _geometry(source),
        "release": {
            "sha256": context.release.sha256,
            "study": study.study.name,
            "study_digest": context.release.study_digest,
        },
        "heart": {
            "found_by": findings.place.how,
            "box_mm": None if box is None else [_rounded(corner) for corner in box],
        },
        "device": {
            "kind": context.device.kind,
            "precision": "bf16" if context.device.bf16 else "fp32",
            "threads": context.threads,
        },
        "seconds": findings.seconds,
        "warnings": findings.warnings,
    }
    (out / "prediction.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    return about


def _dicom_seg(
    out: Path, layers: dict[str, Layer], context: Context, findings: Findings
) -> str | None:
    """Name of the SEG; None, and a warning, when the series does not allow one."""
    path, source = out / "segmentation.dcm", context.source
    try:
        done = write_segmentation(
            path, layers, source.image, source.dicom_files, model=context.release.sha256
        )
    except DataError as error:
        findings.warnings.append(f"No DICOM SEG was written. {error.what} {error.fix}")
        return None
    if not done:
        findings.warnings.append("No DICOM SEG was written: nothing was marked.")
        return None
    return path.name


def write_mask(path: Path, mask: NDArray[np.uint8], image: sitk.Image) -> None:
    """``mask`` ``(D, H, W)`` as NIfTI on the grid of ``image``, without any tag of it."""
    result = sitk.GetImageFromArray(mask)
    result.SetSpacing(image.GetSpacing())
    result.SetOrigin(image.GetOrigin())
    result.SetDirection(image.GetDirection())
    sitk.WriteImage(result, str(path), useCompression=True, compressionLevel=1)


def _overlay(findings: Findings, context: Context) -> Any:
    """All mask labels in one picture; a later label type is drawn over an earlier one."""
    merged = np.zeros(findings.volume.shape, np.uint8)
    names: list[str] = []
    points: dict[str, Point | None] = {}
    for name, label in context.release.study.student_labels().items():
        if label.kind == "points":
            points.update(findings.points[name])
            continue
        marked = findings.classes[name] > 0
        merged[marked] = findings.classes[name][marked] + len(names)
        names += label.classes
    return three_planes(
        findings.volume,
        findings.grid.spacing_mm,
        mask=merged,
        names=names,
        points=points,
        origin_mm=findings.grid.origin_mm,
        title=f"{context.release.study.study.name}: research only, not a medical device",
    )


def _geometry(source: Source) -> dict[str, Any]:
    image = source.image
    return {
        "kind": source.kind,
        "size": list(image.GetSize()),
        "spacing_mm": list(image.GetSpacing()),
        "origin_mm": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
        "coordinates": "LPS",
    }


def _rounded(point: Point) -> list[float]:
    return [round(value, 3) for value in point]
