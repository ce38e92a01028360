"""One scan, from whatever the user pointed at: read and judged as ``data scan`` does."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from stillroom.client.intake.catalogue import Entry, Finding
from stillroom.client.intake.grid_files import is_grid_file, read_grid
from stillroom.client.intake.index import scan
from stillroom.client.intake.quality import Limits
from stillroom.client.intake.volume import load_volume
from stillroom.common.errors import DataError

LABEL_MAP = Finding(
    "STR-419",
    "No value of the file is below zero: a label map, or a CT that is not in Hounsfield units.",
    "Name a CT in Hounsfield units.",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A scan to read.

    Attributes:
        image: 3D, Hounsfield units, on its own grid.
        kind: How it was stored, e.g. ``dicom``.
        dicom_files: Files of the series; empty when it is not DICOM.
    """

    image: sitk.Image
    kind: str
    dicom_files: tuple[Path, ...] = ()


def read_source(path: Path, min_slices: int) -> Source:
    """The scan at ``path``: a folder with one usable series, or any file of a series.

    Args:
        path: Folder, DICOM file, NIfTI or NRRD file.
        min_slices: Series with fewer are refused.

    Raises:
        DataError: STR-4xx, with the code that ``data scan`` would give.
    """
    if not path.exists():
        raise DataError("The input does not exist.", fix="Check the path.", code="STR-410")
    path = path.resolve()
    if path.is_file() and is_grid_file(path):
        entry = _grid_entry(path, min_slices)
    else:
        entry = _series(path, min_slices)
    files = entry.files if entry.kind.startswith("dicom") else ()
    return Source(load_volume(entry), entry.kind, files)


def _grid_entry(path: Path, min_slices: int) -> Entry:
    """A NIfTI or NRRD file by itself: its folder may hold a thousand others."""
    grid = read_grid(path, Limits(min_slices=min_slices))
    findings = grid.findings or ((LABEL_MAP,) if grid.is_label else ())
    if findings:
        raise _refusal(findings[0])
    return Entry(
        id="scan",
        kind="nrrd" if path.suffix.lower() == ".nrrd" else "nifti",
        files=(path,),
        series_uid=None,
        frame_of_reference_uid=None,
        size=grid.size,
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
        direction=grid.direction,
    )


def _series(path: Path, min_slices: int) -> Entry:
    """The series that a folder or one of its files means."""
    root = path if path.is_dir() else path.parent
    # Identifiers are not used here, so their key need not outlive the scan.
    with tempfile.TemporaryDirectory() as state:
        entries = scan(root, state=Path(state), min_slices=min_slices).entries
    if path.is_file():
        entries = tuple(e for e in entries if path in {file.resolve() for file in e.files})
    usable = [entry for entry in entries if entry.accepted]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise DataError(
            f"The input holds {len(usable)} usable series.",
            fix="Name a folder with one series, or one file of the series you mean.",
        )
    findings = [finding for entry in entries for finding in entry.findings[:1]]
    if not findings:
        raise DataError(
            "The input holds no CT series.",
            fix="Name the folder of a CT series, or a NIfTI or NRRD file.",
            code="STR-410",
        )
    code, _ = Counter(finding.code for finding in findings).most_common(1)[0]
    raise _refusal(next(finding for finding in findings if finding.code == code))


def _refusal(finding: Finding) -> DataError:
    return DataError(finding.reason, fix=finding.fix, code=finding.code)
