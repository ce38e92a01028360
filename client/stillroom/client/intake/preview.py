"""A scan with everything that its label files hold, on one isotropic grid, to look at.

Here the files speak for themselves: classes are whatever they contain, by their own names, so that
somebody who writes the site's rules sees what there is to name. For the site's own screen only.
"""

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake import labels, labels_grid, labels_points, labels_rtstruct, labels_seg
from stillroom.client.intake.catalogue import Catalogue, Entry, Finding, LabelFile
from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.matching import TWICE, match_labels
from stillroom.client.intake.matching_evidence import names_of
from stillroom.client.intake.resampling import resample_image, resample_mask, target_for
from stillroom.client.intake.rules import LabelRule, Rules
from stillroom.client.intake.store import Point
from stillroom.client.intake.volume import load_volume
from stillroom.common.errors import DataError
from stillroom.common.study import MaskLabel

LONGEST_PX = 360
"""Voxels along the longest side: more than a panel of the picture shows."""
MOST_CLASSES = 24
"""A map with more is shown with the first ones only."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What ``picture.three_planes`` needs.

    Attributes:
        image_hu: ``(D, H, W)`` int16.
        mask: ``(D, H, W)`` uint8, indices into ``names`` from 1.
        names: As the files call them.
        points: LPS mm; None where marked as not visible.
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0).
        findings: Label files that could not be shown.
    """

    image_hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    names: tuple[str, ...]
    points: dict[str, Point | None]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    findings: tuple[Finding, ...]


def preview(catalogue: Catalogue, entry: Entry) -> Preview:
    """Load a scan and all label files that belong to it.

    Raises:
        DataError: The scan is quarantined or cannot be decoded.
    """
    volume = load_volume(entry)
    native = np.zeros(volume.GetSize()[::-1], np.uint8)
    names: list[str] = []
    points: dict[str, Point | None] = {}
    findings: list[Finding] = []
    for file in _files_of(catalogue, entry):
        try:
            if labels.is_points(file.path):
                points |= _points(file, entry)
            else:
                _add_mask(file, volume, native, names)
        except DataError as error:
            findings.append(Finding(error.code, error.what, error.fix))
    grid = Grid.of(volume)
    extent = np.ptp(grid.corners(), axis=0)
    side = max(float(grid.spacing_mm.min()), float(extent.max()) / LONGEST_PX)
    target = target_for(grid, (side, side, side))
    if target is None:
        raise AssertionError("a grid without a box always has a target")
    return Preview(
        image_hu=resample_image(volume, target),
        mask=resample_mask(native, volume, target, len(names)),
        names=tuple(names),
        points=points,
        spacing_mm=target.spacing_mm,
        origin_mm=target.origin_mm,
        findings=tuple(findings),
    )


def _files_of(catalogue: Catalogue, entry: Entry) -> list[LabelFile]:
    """Label files of a scan: by the site's rules, else whatever matches without any."""
    found = catalogue.labels or match_labels(
        catalogue.entries,
        catalogue.candidates,
        Rules(labels={"any": LabelRule(files="**")}),
        root=catalogue.root,
    )
    mine = [f for f in found if f.entry_id == entry.id and f.finding in (None, TWICE)]
    # A file that several rules are about is shown once. Without rules it gets a number: its own
    # name may say who the patient is, and pictures travel.
    unique = {file.path: file for file in mine}.values()
    return [
        replace(file, label=file.label if catalogue.labels else f"file {number}")
        for number, file in enumerate(unique, 1)
    ]


def _points(file: LabelFile, entry: Entry) -> dict[str, Point | None]:
    if file.format == "csv":
        rows = labels_points.rows_of(labels_points.read_csv(file.path), names_of(entry))
    else:
        rows = labels_points.read_markups(file.path)
    return {point.name: point.mm for point in rows}


def _add_mask(
    file: LabelFile, volume: sitk.Image, native: NDArray[np.uint8], names: list[str]
) -> None:
    """Paint all classes of a file over ``native`` and append their names."""
    found: dict[int | str, str] = {}
    if labels.is_grid(file.path):
        values_found = labels_grid.contents(file.path)
        found = {value: f"{file.label}: {name}" for value, name in values_found.items()}
    else:
        header = labels_seg.read_header(file.path)
        try:
            is_seg = file.format == "seg"
            found.update((labels_seg if is_seg else labels_rtstruct).contents(header))
        except ValueError as error:
            raise DataError(
                "A DICOM label is damaged.", fix="Export the label again.", code="STR-431"
            ) from error
    chosen = list(found.items())[: MOST_CLASSES - len(names)]
    if not chosen:
        return
    keys = [f"c{number}" for number in range(len(chosen))]
    label = MaskLabel(kind="mask", classes=tuple(keys))
    values = {key: value for key, (value, _) in zip(keys, chosen, strict=True)}
    mask = labels.read_mask(file.path, label, values, volume, absent_is_background=True)
    held = mask > 0
    native[held] = mask[held] + np.uint8(len(names))
    names += [name for _, name in chosen]
