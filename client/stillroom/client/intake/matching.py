"""Which scan a label file belongs to. By what the file says, else by geometry, never by a guess.

1. SEG and RTSTRUCT: the series they reference. One that references none: the scan on the same
   frame of reference whose slices its frames or contours lie on.
2. Label maps: the scan that fills the same part of the patient. When several do (phases of one
   examination, or phantoms): the one with the same name, then the one in the nearest folder.
3. Points: the series that a CSV names. Otherwise by file name, then the only scan in the nearest
   folder that holds all the points.
4. Classes of whole scans: the series that the CSV names, and no other way.

A label that names a series which is not here stays unmatched even when another scan shares its
frame of reference: between two phases of one examination the heart moves by centimetres.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.client.intake import matching_evidence as evidence
from stillroom.client.intake.catalogue import Entry, Finding, LabelCandidate, LabelFile
from stillroom.client.intake.geometry import Points, is_same_extent
from stillroom.client.intake.matching_evidence import Evidence
from stillroom.client.intake.rules import Rules, is_match
from stillroom.common.errors import DataError

ROI = "@roi"
"""Label name of a site's heart masks; ``@`` keeps it apart from every study's names."""

SAME_PLACE = 0.1
"""Voxels by which the corners of a label map may lie beside those of its scan."""

DICOM_FORMATS = frozenset({"seg", "rtstruct"})

NOWHERE = Finding(
    "STR-430",
    "The label fits no scan of this folder.",
    "Put it beside its scan, or give it the same geometry, name or series UID.",
)
NO_SERIES = Finding(
    "STR-430",
    "The label names a series that is not here.",
    "Add that series to the folder, or remove the label.",
)
QUARANTINED = Finding(
    "STR-430",
    "The label belongs to a scan that is quarantined.",
    "See what the scan's own finding asks for.",
)
NO_RULE = Finding(
    "STR-430",
    "The file looks like a label, but no rule is about it.",
    "Add it to the `files` of a label in the site's configuration, or remove it.",
)
OUTSIDE = Finding(
    "STR-432",
    "The label lies outside its scan or on another frame of reference.",
    "Check that it was made on this very series.",
)
SEVERAL = Finding(
    "STR-433",
    "The label fits more than one scan equally well.",
    "Name it like its scan, put it into the scan's folder, or add the series UID.",
)
TWICE = Finding(
    "STR-433",
    "The same label of one scan is there twice.",
    "Keep one file or row, or make `files` of this label narrower.",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A scan, or the reason why there is none."""

    entry: Entry | None
    finding: Finding | None = None


def match_labels(
    entries: Sequence[Entry], candidates: Sequence[LabelCandidate], rules: Rules, *, root: Path
) -> tuple[LabelFile, ...]:
    """Every label file with the scan it belongs to or a finding, in the order of the candidates.

    A CSV that is about several scans gives one ``LabelFile`` for each of them.

    Args:
        entries: All series of the folder, quarantined ones too: a label of such a one is told apart
            from a label of none.
        candidates: Files that look like labels.
        rules: The site's; a file that no rule is about is reported.
        root: The folder that the rules' patterns are relative to.
    """
    patterns = {name: rule.files for name, rule in rules.labels.items()}
    if rules.roi is not None and rules.roi.mask is not None:
        patterns[ROI] = rules.roi.mask
    boxes = rules.roi.box if rules.roi is not None else None
    found: list[LabelFile] = []
    for candidate in candidates:
        names = [name for name, glob in patterns.items() if is_match(candidate.path, root, glob)]
        if not names:
            if boxes is None or not is_match(candidate.path, root, boxes):
                found.append(_label_file(candidate, "", Verdict(None, NO_RULE)))
            continue
        verdicts = _match(candidate, entries)
        found += [_label_file(candidate, name, v) for name in names for v in verdicts]
    return _refuse_twice(found)


def _label_file(candidate: LabelCandidate, label: str, verdict: Verdict) -> LabelFile:
    entry, finding = verdict.entry, verdict.finding
    if entry is not None and finding is None and not entry.accepted:
        finding = QUARANTINED
    return LabelFile(
        candidate.path, candidate.format, label, entry.id if entry is not None else None, finding
    )


def _match(candidate: LabelCandidate, entries: Sequence[Entry]) -> list[Verdict]:
    try:
        with warnings.catch_warnings():
            # pydicom warns with the odd value in the text, which may be a patient's.
            warnings.simplefilter("ignore")
            said = evidence.of(candidate)
    except DataError as error:
        return [Verdict(None, Finding(error.code, error.what, error.fix))]
    if candidate.format in DICOM_FORMATS:
        return [_by_reference(said, entries)]
    if candidate.format == "mask":
        return [_by_geometry(candidate.path, said, entries)]
    verdicts = [_by_series(name, points, entries) for name, points in said.by_series.items()]
    if said.points is not None:
        verdicts.append(_by_containment(candidate.path, said.points, entries))
    return verdicts


def _by_reference(said: Evidence, entries: Sequence[Entry]) -> Verdict:
    if said.series_uids:
        named = [entry for entry in entries if entry.series_uid in said.series_uids]
        if len(named) != 1:
            return Verdict(None, SEVERAL if named else NO_SERIES)
        frame = named[0].frame_of_reference_uid
        if frame and said.frame_uids and frame not in said.frame_uids:
            return Verdict(named[0], OUTSIDE)
        return Verdict(named[0])
    sharing = [e for e in entries if e.accepted and e.frame_of_reference_uid in said.frame_uids]
    points = said.points
    if points is None or not len(points):
        return Verdict(None, NOWHERE)
    return _only([e for e in sharing if evidence.is_on_slices(evidence.grid_of(e), points)])


def _by_geometry(path: Path, said: Evidence, entries: Sequence[Entry]) -> Verdict:
    grid = said.grid
    if grid is None:
        return Verdict(None, NOWHERE)
    finest = float(grid.spacing_mm.min())
    alike = [
        entry
        for entry in entries
        if path not in entry.files
        and min(entry.size) > 0
        and is_same_extent(
            grid, evidence.grid_of(entry), SAME_PLACE * min(*entry.spacing_mm, finest)
        )
    ]
    named = _named(path, entries)
    if named and not any(entry in alike for entry in named):
        # Named like one scan, shaped like another: re-origined copies all look alike.
        return Verdict(None, OUTSIDE)
    return _only(_named_or_near(path, alike))


def _by_series(name: str, points: Points, entries: Sequence[Entry]) -> Verdict:
    named = [entry for entry in entries if name in evidence.names_of(entry)]
    if len(named) != 1:
        return Verdict(None, SEVERAL if named else NO_SERIES)
    return _if_inside(named[0], points)


def _by_containment(path: Path, points: Points, entries: Sequence[Entry]) -> Verdict:
    named = _named(path, entries)
    if named:
        nearest = _near(path, named)
        return _if_inside(nearest[0], points) if len(nearest) == 1 else Verdict(None, SEVERAL)
    if not len(points) or not entries:
        return Verdict(None, NOWHERE)
    return _only([e for e in _near(path, entries) if evidence.is_inside(e, points)])


def _if_inside(entry: Entry, points: Points) -> Verdict:
    if entry.accepted and len(points) and not evidence.is_inside(entry, points):
        return Verdict(entry, OUTSIDE)
    return Verdict(entry)


def _only(entries: Sequence[Entry]) -> Verdict:
    if len(entries) == 1:
        return Verdict(entries[0])
    return Verdict(None, SEVERAL if entries else NOWHERE)


def _named_or_near(path: Path, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Fewer scans where names or folders tell them apart; names first."""
    rest = _named(path, entries) or entries
    return rest if len(rest) < 2 else _near(path, rest)


def _named(path: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Scans after which the file is called, the longest name first served.

    ``p1_heart.nii.gz`` is called after ``p1.nii.gz`` and after the DICOM folder ``p1``, not after
    ``p`` and not after ``p10``.
    """
    stem = evidence.stem_of(path)
    best: list[Entry] = []
    length = 0
    for entry in entries:
        fits = [n for n in evidence.names_of(entry) if evidence.is_called_after(stem, n)]
        longest = max(map(len, fits), default=0)
        if longest > length:
            best, length = [entry], longest
        elif longest and longest == length:
            best.append(entry)
    return best


def _near(path: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Scans that share the deepest folder with the file."""
    depths = [evidence.shared_depth(path.parent, entry.files[0].parent) for entry in entries]
    return [e for e, depth in zip(entries, depths, strict=True) if depth == max(depths)]


def _refuse_twice(found: Sequence[LabelFile]) -> tuple[LabelFile, ...]:
    """Withdraw all files of a label and scan that have more than one."""
    counts: dict[tuple[str, str | None], int] = {}
    for item in found:
        if item.finding is None:
            counts[item.label, item.entry_id] = counts.get((item.label, item.entry_id), 0) + 1
    return tuple(
        LabelFile(item.path, item.format, item.label, item.entry_id, TWICE)
        if item.finding is None and counts[item.label, item.entry_id] > 1
        else item
        for item in found
    )
