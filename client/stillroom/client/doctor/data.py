"""Scans and labels: whether they can be read, whether there are any, whether there are enough.

Headers of a bounded number of files are read; nothing that a scan says is shown, only counts, and
those below the study's floor not exactly.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stillroom.client.doctor.examination import Examination
from stillroom.client.local_counts import local_counts
from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.study import Study

MOST_HEADERS = 300
"""Files looked into."""
MOST_NAMES = 20_000
"""Names walked over; beyond that a large archive is not counted."""
IMAGES = (
    ".nii",
    ".nii.gz",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".png",
    ".jpg",
    ".jpeg",
    ".tif",
    ".tiff",
)


@dataclass(frozen=True, slots=True)
class DataSeen:
    """What lies in the data folders.

    Attributes:
        names: Files walked over.
        complete: Whether that were all.
        headers: Files looked into.
        series: CT series among those.
        other: DICOM files of other modalities among those, and unreadable ones.
        images: Files with the name of another image format.
    """

    names: int
    complete: bool
    headers: int
    series: int
    other: int
    images: int


def folders(exam: Examination) -> Finding:
    """Whether the data folders are there, can be read, and cannot be written."""
    config = exam.config
    count = len(config.data)
    for number, folder in enumerate(config.data, 1):
        which = f"Data folder {number} of {count}"
        if not folder.is_dir():
            return failed(
                f"{which}, {folder}, is not there.",
                "Mount it, or correct `data` in site.toml.",
                "STR-112",
                told=f"folder {number} of {count} is not there",
            )
        if not os.access(folder, os.R_OK | os.X_OK):
            return failed(
                f"{which}, {folder}, cannot be read by this account.",
                "Give the runner's account the right to read it.",
                "STR-112",
                told=f"folder {number} of {count} cannot be read",
            )
    writable = sum(os.access(folder, os.W_OK) for folder in config.data)
    if writable and os.geteuid() != 0:
        return warning(
            f"{writable} of {count} data folder(s) can be written by this account.",
            "Mount them read-only; nothing here ever writes in them.",
            told=f"{writable} of {count} writable",
        )
    return ok(f"{count} folder(s) can be read.", told=f"{count} readable")


def scans(exam: Examination) -> Finding:
    """Whether anything in them looks like a scan."""
    return scans_finding(look_at_scans(exam.config.data))


def look_at_scans(data: tuple[Path, ...]) -> DataSeen:
    """Walk over names, look into the headers of some; reads no pixels."""
    from stillroom.client.intake.headers import read_slices  # noqa: PLC0415  # pydicom is heavy

    found = list(islice(_files(data), MOST_NAMES + 1))
    images = [p for p in found if p.name.lower().endswith(IMAGES)]
    others = [p for p in found if not p.name.lower().endswith(IMAGES)]
    # Evenly over all: the first folder may hold nothing but reports.
    step = max(1, len(others) // MOST_HEADERS)
    series, other, headers = set[str](), 0, 0
    for path in others[::step][:MOST_HEADERS]:
        headers += 1
        for header in (read_slices(path) or ())[:1]:
            if header.modality == "CT" and header.problem is None:
                series.add(header.series_uid)
            else:
                other += 1
    return DataSeen(
        min(len(found), MOST_NAMES),
        len(found) <= MOST_NAMES,
        headers,
        len(series),
        other,
        len(images),
    )


def scans_finding(seen: DataSeen) -> Finding:
    """What it means. Pure."""
    told = (
        f"{'' if seen.complete else 'more than '}{seen.names} files; of {seen.headers} headers: "
        f"CT in {seen.series} series, {seen.other} other; {seen.images} other images"
    )
    if not seen.names:
        return failed(
            "The data folders are empty.",
            "Export scans into them, or correct `data` in site.toml.",
            "STR-401",
            told=told,
        )
    if not seen.series and not seen.images:
        return failed(
            f"No CT series and no image among {seen.headers} files looked at.",
            "Run `stillroom-client data scan` to see what is there, and export CT series.",
            "STR-401",
            told=told,
        )
    return ok(
        f"{seen.names}{'' if seen.complete else ' and more'} files; CT of {seen.series} series among "
        f"{seen.headers} headers, {seen.images} other images.",
        told=told,
    )


def cases(exam: Examination) -> Finding:
    """How many scans of which label there are, against what the study makes use of."""
    counts = local_counts(exam.config.state, exam.prepared)
    if counts is None:
        return skipped("nothing was scanned yet")
    study = exam.prepared.study
    role = "held_out" if exam.config.site in study.study.held_out else "train"
    return cases_finding(counts, study, role)


def cases_finding(counts: Mapping[str, float], study: Study, role: str = "train") -> Finding:
    """What they mean. Pure."""
    floor = max(1, study.study.min_cohort)
    total = int(counts.get("inventory.cases", 0))
    wanted = {stage.label for stage in study.stage if stage.label is not None}
    shown = [f"cases: {_count(total, floor)}"]
    few = []
    for label in study.label:
        have = int(counts.get(f"inventory.{label}.cases", 0))
        shown.append(f"{label}: {_count(have, floor)}")
        if 0 < have < floor and (label in wanted or role == "held_out"):
            few.append(label)
    told = ", ".join(shown)
    if total < floor:
        return failed(
            f"{_count(total, floor)} usable scans here; the study counts no site below {floor}."
            if total
            else "No usable scan here.",
            "Run `stillroom-client data scan`: it names what is wrong with every series.",
            "STR-401",
            told=told,
        )
    if few:
        return failed(
            f"Too few scans with {', '.join(few)}: fewer than {floor}, the study's `min_cohort`.",
            "Add labelled scans of that type, or remove its section from site.toml.",
            "STR-401",
            told=told,
        )
    if not any(counts.get(f"inventory.{label}.cases", 0) for label in study.label):
        return warning(
            f"{_count(total, floor)} scans, and none with a label of the study.",
            "Nothing, if this site has no labels; else check [labels] in site.toml.",
            told=told,
        )
    return ok(f"{', '.join(shown)}.", told=told)


def _count(number: int, floor: int) -> str:
    return f"fewer than {floor}" if 0 < number < floor else str(number)


def _files(data: tuple[Path, ...]) -> "list[Path]":
    found: list[Path] = []
    for root in data:
        for folder, _, names in os.walk(root):
            found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
            if len(found) > MOST_NAMES:
                return found
    return found


CHECKS: tuple[Check[Examination], ...] = (
    Check("data folders", folders, ("site.toml",), part="runner"),
    Check("scans", scans, ("data folders",), part="runner"),
    Check("cases", cases, ("study", "state folder"), unless=("scans",), part="runner"),
)
