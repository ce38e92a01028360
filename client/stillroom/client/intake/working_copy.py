"""From a catalogue to working copies: load, label, crop, resample, write. Nothing leaves the site.

A case that cannot be used is reported with a code and the others go on; a label that cannot be
used costs its case that label only. A case whose files, labels and settings are unchanged is
not touched, so its pseudo-labels live on.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake import labels, labels_bags, labels_grid
from stillroom.client.intake.catalogue import Catalogue, Entry, Finding, LabelFile
from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.matching import ROI
from stillroom.client.intake.matching_evidence import names_of
from stillroom.client.intake.resampling import Box, resample_image, resample_mask, target_for
from stillroom.client.intake.roi import box_around, read_boxes, widened
from stillroom.client.intake.rules import LabelRule, Rules, is_match
from stillroom.client.intake.store import CaseInfo, CaseStore, Point
from stillroom.client.intake.volume import load_volume
from stillroom.client.intake.working_copy_report import (
    LabelFinding,
    PrepareReport,
    finding_of,
    read_note,
    unchanged,
    write_note,
)
from stillroom.common.canonical import digest
from stillroom.common.errors import DataError
from stillroom.common.study import BagLabel, MaskLabel, PointsLabel, Study

__all__ = ["PrepareReport", "prepare"]

FORMAT = 1
"""Raised when this module would write other bytes for the same input: all cases are redone."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for every case of one ``prepare``."""

    study: Study
    rules: Rules
    spacing_mm: Spacing
    is_cropped: bool
    boxes: Mapping[str, Box]
    regions: Mapping[str, Box]
    origin: str

    @property
    def pixel_mm(self) -> float | None:
        """Of pictures; None when the study's grid is theirs."""
        return None if self.rules.pictures is None else self.rules.pictures.pixel_mm

    def box_given(self, entry: Entry) -> Box | None:
        """The site's box for a scan, else what a localiser found."""
        for name in sorted(names_of(entry)):
            if name in self.boxes:
                return self.boxes[name]
        return self.regions.get(entry.id)


def prepare(
    catalogue: Catalogue,
    study: Study,
    rules: Rules,
    store: CaseStore,
    *,
    spacing_mm: Spacing | None = None,
    crop: bool = True,
    regions: Mapping[str, Box] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Bring the working copies of a site up to date with its catalogue.

    Args:
        catalogue: With its labels matched (``matching.match_labels``).
        study: Decides grid, labels and crop.
        rules: How this site writes its labels.
        store: Receives the cases; a stage with its own grid has its own store.
        spacing_mm: The study's when left out.
        crop: False keeps the whole field of view, as a localiser needs it.
        regions: Heart boxes (LPS mm) by case that a localiser found; the site's own come first.
        progress: Called with (cases done, cases in all).

    Raises:
        ConfigError: A rule about a label that the study does not have.
        DataError: The file of heart boxes cannot be read: it is about all cases.
    """
    rules.check_against(study)
    plan = Plan(
        study=study,
        rules=rules,
        spacing_mm=spacing_mm or study.volume.spacing_mm,
        is_cropped=crop and study.volume.roi == "heart",
        boxes=_site_boxes(catalogue.root, rules),
        regions=regions or {},
        origin=digest(os.fsencode(catalogue.root).hex()),
    )
    report = PrepareReport()
    accepted = catalogue.accepted
    _remove_stale(store, {entry.id for entry in accepted}, plan.origin, report)
    for done, entry in enumerate(accepted):
        if progress is not None:
            progress(done, len(accepted))
        usable = [f for f in catalogue.labels if f.entry_id == entry.id and f.finding is None]
        _bring_up_to_date(entry, usable, plan, store, report)
    if progress is not None:
        progress(len(accepted), len(accepted))
    return report


def _bring_up_to_date(
    entry: Entry,
    files: Sequence[LabelFile],
    plan: Plan,
    store: CaseStore,
    report: PrepareReport,
) -> None:
    case = store.root / entry.id
    try:
        fingerprint = _fingerprint(entry, files, plan)
        findings = unchanged(case, fingerprint)
        if findings is None:
            findings = _write(entry, files, plan, store)
            write_note(case, fingerprint=fingerprint, origin=plan.origin, findings=findings)
            report.written.append(entry.id)
        else:
            report.unchanged.append(entry.id)
        report.labels += findings
    except (DataError, RuntimeError, OSError, MemoryError) as error:
        # SimpleITK raises RuntimeError for everything and quotes paths: its words stay here.
        shutil.rmtree(case, ignore_errors=True)
        report.failed[entry.id] = finding_of(error)


@dataclass(slots=True)
class Truth:
    """What is labelled on one scan, on its own grid.

    Attributes:
        masks: Label -> ``(D, H, W)`` class indices.
        points: Label -> name -> LPS mm.
        bags: Label -> class of the whole scan.
        roi: Box around the heart; None when unknown.
        findings: Labels that could not be used.
    """

    roi: Box | None
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    points: dict[str, dict[str, Point | None]] = field(default_factory=dict)
    bags: dict[str, str] = field(default_factory=dict)
    findings: list[LabelFinding] = field(default_factory=list)


def _write(
    entry: Entry, files: Sequence[LabelFile], plan: Plan, store: CaseStore
) -> list[LabelFinding]:
    """One working copy; returns the labels it had to do without."""
    volume = load_volume(entry)
    if entry.kind == "pictures":
        # Never resampled across slices: neighbours need not be neighbours in the body.
        across = plan.spacing_mm[:2] if plan.pixel_mm is None else (plan.pixel_mm,) * 2
        volume.SetSpacing((*across, plan.spacing_mm[2]))
    # 1. Labels, on the scan's own grid.
    truth = Truth(plan.box_given(entry))
    for file in files:
        try:
            _read_label(file, entry, plan, volume, truth)
        except DataError as error:
            truth.findings.append(LabelFinding(entry.id, file.label, finding_of(error)))
    # 2. The working grid.
    box = widened(truth.roi, plan.study.volume.margin_mm) if truth.roi and plan.is_cropped else None
    target = target_for(Grid.of(volume), plan.spacing_mm, box)
    if target is None:
        raise DataError(
            "The heart's box lies outside the scan.",
            fix="Correct the box or mask of [roi]; it is in LPS mm.",
            code="STR-421",
        )
    for label, named in list(truth.points.items()):
        placed = np.asarray([mm for mm in named.values() if mm is not None], np.float64)
        if box and placed.size and not target.grid.holds(placed).all():
            truth.findings.append(LabelFinding(entry.id, label, BESIDE_ROI))
            del truth.points[label]
    # 3. Voxels.
    moved = {
        label: resample_mask(mask, volume, target, len(plan.study.label[label].classes))
        for label, mask in truth.masks.items()
    }
    info = CaseInfo(
        id=entry.id,
        shape=target.shape,
        spacing_mm=target.spacing_mm,
        origin_mm=target.origin_mm,
        masks=tuple(sorted(moved)),
        points=truth.points,
        roi_mm=truth.roi,
        bags=truth.bags,
    )
    # An old mask must not outlive its label.
    shutil.rmtree(store.root / entry.id, ignore_errors=True)
    store.write_case(info, resample_image(volume, target), moved)
    return truth.findings


BESIDE_ROI = Finding(
    "STR-432",
    "A point lies outside the heart's box.",
    "Correct the point, or the box or mask of [roi].",
)


def _read_label(
    file: LabelFile, entry: Entry, plan: Plan, volume: sitk.Image, truth: Truth
) -> None:
    """Add one label to ``truth``; a file about nothing in the study adds nothing."""
    if file.label == ROI:
        truth.roi = _heart(file, plan.rules, volume)
        return
    rule = plan.rules.labels.get(file.label, LabelRule(files="*"))
    match plan.study.label.get(file.label):
        case MaskLabel() as label:
            truth.masks[file.label] = labels.read_mask(
                file.path,
                label,
                rule.classes or None,
                volume,
                absent_is_background=rule.absent_is_background,
            )
        case PointsLabel() as label:
            truth.points[file.label] = labels.read_points(
                file.path,
                label,
                {name: str(value) for name, value in rule.classes.items()},
                volume,
                series=names_of(entry),
                label_name=file.label,
            )
        case BagLabel() as label:
            named = {name: str(value) for name, value in rule.classes.items()}
            found = labels_bags.read_class(
                file.path, label, named, series=names_of(entry), label_name=file.label
            )
            if found is not None:
                truth.bags[file.label] = found


def _heart(file: LabelFile, rules: Rules, volume: sitk.Image) -> Box:
    if labels.is_grid(file.path):
        mask = labels_grid.read_any(file.path, volume)
    else:
        name = rules.roi.name if rules.roi is not None else "heart"
        heart = MaskLabel(kind="mask", classes=("heart",))
        mask = labels.read_mask(file.path, heart, {"heart": name}, volume)
    box = box_around(mask, Grid.of(volume))
    if box is None:
        raise DataError("A heart mask is empty.", fix="Correct it or remove it.", code="STR-431")
    return box


def _site_boxes(root: Path, rules: Rules) -> dict[str, Box]:
    if rules.roi is None or rules.roi.box is None:
        return {}
    pattern = rules.roi.box
    files = [path for path in sorted(root.rglob("*")) if is_match(path, root, pattern)]
    if not files:
        raise DataError(
            "No file matches roi.box.", fix="Correct the pattern in the site's configuration."
        )
    boxes: dict[str, Box] = {}
    for file in files:
        boxes |= read_boxes(file)
    return boxes


def _fingerprint(entry: Entry, files: Sequence[LabelFile], plan: Plan) -> str:
    """Digest of all that decides the bytes of a working copy, without reading a voxel."""

    def stamp(path: Path) -> list[str | int]:
        state = path.stat()
        return [os.fsencode(path).hex(), state.st_size, state.st_mtime_ns]

    return digest(
        {
            "format": FORMAT,
            "images": [stamp(path) for path in entry.files],
            "labels": sorted([f.label, *stamp(f.path)] for f in files),
            "rules": plan.rules.model_dump(mode="json"),
            "definitions": {n: v.model_dump(mode="json") for n, v in plan.study.label.items()},
            "margin_mm": plan.study.volume.margin_mm,
            "spacing_mm": list(plan.spacing_mm),
            "crop": plan.is_cropped,
            "box": plan.box_given(entry),
        }
    )


def _remove_stale(store: CaseStore, wanted: set[str], origin: str, report: PrepareReport) -> None:
    """A series that is gone or quarantined must not go on teaching from an old copy.

    Only cases of this very folder are judged: several folders may share a store.
    """
    for case in store.ids():
        if case not in wanted and read_note(store.root / case).get("origin", origin) == origin:
            shutil.rmtree(store.root / case)
            report.removed.append(case)
