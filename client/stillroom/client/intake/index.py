"""Every series and label file under a folder, found by headers alone.

A file is what its content says, not its name: PACS exports have no suffix, and folders hold
whatever somebody once put there. Nothing here raises because of a file.
"""

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stillroom.client.intake import grid_files, matching, pictures
from stillroom.client.intake.catalogue import (
    Catalogue,
    Entry,
    EntryKind,
    LabelCandidate,
    LabelFormat,
    entry_id,
    site_salt,
)
from stillroom.client.intake.headers import SliceHeader, read_slices
from stillroom.client.intake.labels import is_grid, is_points
from stillroom.client.intake.quality import Limits, check_slices
from stillroom.client.intake.rules import Rules, is_match
from stillroom.client.intake.stacking import IDENTITY, Triple, is_placed, stack
from stillroom.common.errors import ConfigError

LABEL_MODALITIES: dict[str, LabelFormat] = {"SEG": "seg", "RTSTRUCT": "rtstruct"}

RECEIVING = ".incoming"
"""Folder in which `data pull` collects a series until it is whole. Not looked into."""

Progress = Callable[[int, int], None]
"""Called with files done and files in total."""


@dataclass(slots=True)
class _Found:
    """What the walk has collected so far."""

    series: dict[str, list[SliceHeader]] = field(default_factory=dict)
    pictures: dict[Path, list[Path]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    candidates: list[LabelCandidate] = field(default_factory=list)
    skipped: int = 0


def scan(
    root: Path,
    *,
    state: Path,
    min_slices: int = 16,
    region: Triple | None = None,
    max_voxels: int = 2**31,
    progress: Progress | None = None,
    rules: Rules | None = None,
) -> Catalogue:
    """Everything under ``root``, each series accepted or with the reasons against it.

    Args:
        root: Folder; links to folders are not followed, so a loop cannot trap the scan.
        state: The site's state folder, which holds the salt of identifiers.
        min_slices: Fewest slices of a usable series.
        region: Smallest field of view along the patient's (x, y, z), mm.
        max_voxels: Most voxels of one volume, by its header.
        progress: Told after each file.
        rules: The site's label rules. Files they name are labels whatever they look like, and
            labels are matched to series; without rules they are only listed.

    Raises:
        ConfigError: ``root`` is not a folder that can be read (STR-101).
    """
    root = Path(root).absolute()
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        raise ConfigError(
            "The folder to scan does not exist or cannot be read.",
            fix="Check the path and its permissions.",
            code="STR-101",
        )
    limits = Limits(min_slices, region, max_voxels)
    salt = site_salt(state)
    # 1. Names first, so that progress knows its end.
    files = sorted(_files(root))
    # 2. One look at each file.
    found = _Found()
    with warnings.catch_warnings():
        # pydicom warns with the odd value in the text, which may be a patient's.
        warnings.simplefilter("ignore")
        for number, path in enumerate(files, 1):
            _look(path, root, salt, limits=limits, rules=rules, found=found)
            if progress is not None:
                progress(number, len(files))
    # 3. Verdicts on series, labels last since they need them.
    entries = found.entries + [
        _series_entry(slices, root, salt, limits) for slices in found.series.values()
    ]
    if rules is not None and rules.pictures is not None:
        side = rules.pictures.pixel_mm or 1.0
        entries += [
            _pictures_entry(folder, files, root, salt, limits=limits, pixel_mm=side)
            for folder, files in found.pictures.items()
        ]
    entries.sort(key=lambda entry: min(entry.files))
    entries = _distinct(entries, root, salt)
    candidates = tuple(found.candidates)
    labels = () if rules is None else matching.match_labels(entries, candidates, rules, root=root)
    return Catalogue(root, tuple(entries), labels, candidates, found.skipped)


def _files(root: Path) -> Iterator[Path]:
    """Regular files; hidden ones are the file system's own, pipes and devices would block."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != RECEIVING]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and stat.S_ISREG(_mode(path)):
                yield path


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _look(
    path: Path,
    root: Path,
    salt: bytes,
    *,
    limits: Limits,
    rules: Rules | None,
    found: _Found,
) -> None:
    if pictures.is_picture(path) and rules is not None and _is_pictured(path, root, rules):
        found.pictures.setdefault(path.parent, []).append(path)
    elif is_points(path):
        format_: LabelFormat = "csv" if path.suffix.lower() == ".csv" else "markups"
        found.candidates.append(LabelCandidate(path, format_))
    elif is_grid(path) and not grid_files.is_utf8(path):
        # Not even as a label: its reader would be the same library.
        grid = grid_files.GridFile(findings=(grid_files.BAD_NAME,))
        found.entries.append(_grid_entry(path, grid, root, salt))
    elif is_grid(path) and rules is not None and _is_ruled(path, root, rules):
        found.candidates.append(LabelCandidate(path, "mask"))
    elif grid_files.is_grid_file(path):
        grid = grid_files.read_grid(path, limits)
        if grid.is_label:
            found.candidates.append(LabelCandidate(path, "mask"))
        else:
            found.entries.append(_grid_entry(path, grid, root, salt))
    elif (slices := read_slices(path)) is None:
        found.skipped += 1
    elif slices[0].modality in LABEL_MODALITIES:
        found.candidates.append(LabelCandidate(path, LABEL_MODALITIES[slices[0].modality]))
    else:
        found.series.setdefault(_series_key(slices[0]), []).extend(slices)


def _is_pictured(path: Path, root: Path, rules: Rules) -> bool:
    return rules.pictures is not None and is_match(path, root, rules.pictures.files)


def _is_ruled(path: Path, root: Path, rules: Rules) -> bool:
    patterns = [rule.files for rule in rules.labels.values()]
    if rules.roi is not None and rules.roi.mask is not None:
        patterns.append(rules.roi.mask)
    return any(is_match(path, root, pattern) for pattern in patterns)


def _series_key(header: SliceHeader) -> str:
    """Which slices belong together.

    De-identified exports may lack the series UID; then a folder is a series. A multi-frame file
    is a volume of its own, and so is a file of which nothing is known.
    """
    if header.is_multiframe or header.frames > 1 or header.problem == "unreadable":
        return f"file {header.path}"
    return f"uid {header.series_uid}" if header.series_uid else f"folder {header.path.parent}"


def _series_entry(slices: Sequence[SliceHeader], root: Path, salt: bytes, limits: Limits) -> Entry:
    """One DICOM series with its grid and verdict."""
    findings = check_slices(slices, limits)
    if not all(grid_files.is_utf8(header.path) for header in slices):
        findings = (grid_files.BAD_NAME, *findings)
    first = slices[0]
    size, spacing, origin = (0, 0, 0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    direction = IDENTITY
    if all(is_placed(header) for header in slices):
        ordered = stack(slices)
        slices = ordered.slices
        size, spacing = ordered.size, ordered.spacing_mm
        origin, direction = ordered.origin_mm, ordered.direction
    files = tuple(dict.fromkeys(header.path for header in slices))
    is_multiframe = first.is_multiframe or first.frames > 1
    lone = first.path if is_multiframe or first.problem == "unreadable" else first.path.parent
    return Entry(
        id=entry_id(salt, first.series_uid or _relative(lone, root)),
        kind="dicom-multiframe" if is_multiframe else "dicom",
        files=files,
        series_uid=first.series_uid or None,
        frame_of_reference_uid=first.frame_of_reference_uid or None,
        size=size,
        spacing_mm=spacing,
        origin_mm=origin,
        direction=direction,
        findings=findings,
    )


def _grid_entry(path: Path, grid: grid_files.GridFile, root: Path, salt: bytes) -> Entry:
    kind: EntryKind = "nifti" if ".nii" in path.name.lower()[-7:] else "nrrd"
    return Entry(
        id=entry_id(salt, _relative(path, root)),
        kind=kind,
        files=(path,),
        series_uid=None,
        frame_of_reference_uid=None,
        size=grid.size,
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
        direction=grid.direction,
        findings=grid.findings,
    )


def _pictures_entry(
    folder: Path,
    files: Sequence[Path],
    root: Path,
    salt: bytes,
    *,
    limits: Limits,
    pixel_mm: float,
) -> Entry:
    """A folder of pictures; its slices are an order, not a distance."""
    size, findings = pictures.look(files, limits)
    return Entry(
        id=entry_id(salt, _relative(folder, root)),
        kind="pictures",
        files=tuple(files),
        series_uid=None,
        frame_of_reference_uid=None,
        size=size,
        spacing_mm=(pixel_mm, pixel_mm, 1.0),
        origin_mm=(0.0, 0.0, 0.0),
        direction=IDENTITY,
        findings=findings,
    )


def _distinct(entries: Sequence[Entry], root: Path, salt: bytes) -> list[Entry]:
    """Identifiers that occur once: several multi-frame files may share one series UID."""
    seen: set[str] = set()
    result = []
    for entry in entries:
        name = f"{entry.series_uid} {_relative(entry.files[0], root)}"
        own = entry if entry.id not in seen else replace(entry, id=entry_id(salt, name))
        seen.add(own.id)
        result.append(own)
    return result


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
