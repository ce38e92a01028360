"""What somebody asks for: lists of accession numbers, CSV files, queries. Pure but for reading a file.

A wish is named by its line, never by its value: accession numbers identify patients.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.errors import DataError


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


STUDY_KEYS = _set(
    """AccessionNumber StudyInstanceUID PatientID PatientName PatientBirthDate PatientSex StudyDate
    StudyTime StudyID StudyDescription ModalitiesInStudy ReferringPhysicianName InstitutionName"""
)
SERIES_KEYS = _set("SeriesInstanceUID SeriesDescription SeriesNumber BodyPartExamined ProtocolName")
NARROWING = _set(
    "AccessionNumber StudyInstanceUID PatientID PatientName StudyDate StudyDescription StudyID"
)
"""One of these must say something: the rest matches half an archive."""
WILD = frozenset("*?\\")
FEWEST_LETTERS = 3
"""Of a value with wildcards, besides them."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing that is asked for.

    Attributes:
        line: Of the list, from 1; 0 for a query.
        study: Keys of the question at study level, keyword -> value.
        series: Keys at series level.
    """

    line: int
    study: Mapping[str, str]
    series: Mapping[str, str]


def of_accessions(path: Path) -> list[Wish]:
    """One accession number a line; empty lines and lines that begin with ``#`` are skipped.

    Raises:
        DataError: Unreadable, empty, or a line with a wildcard (STR-447).
    """
    lines = ((n, line.strip()) for n, line in enumerate(_text(path).splitlines(), 1))
    return _listed([(n, {"AccessionNumber": v}) for n, v in lines if v and not v.startswith("#")])


def of_csv(path: Path) -> list[Wish]:
    """A table whose columns are named by DICOM keywords; other columns and empty cells do not matter.

    ``StudyInstanceUID`` or ``AccessionNumber`` of every row must be filled in; comma or semicolon.

    Raises:
        DataError: As ``of_accessions``; also without such a column (STR-447).
    """
    text = _text(path)
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    names = {name: name.strip() for name in rows.fieldnames or ()}
    known = STUDY_KEYS | SERIES_KEYS
    if not {"AccessionNumber", "StudyInstanceUID"} & set(names.values()):
        raise _unreadable("The CSV has no column AccessionNumber or StudyInstanceUID.")
    wishes = []
    try:
        for row in rows:
            cells = {names[k]: v.strip() for k, v in row.items() if k in names and v}
            keys = {k: v for k, v in cells.items() if v and k in known}
            wishes.append((rows.line_num, keys))
    except csv.Error:
        raise _unreadable(f"Line {rows.line_num} of the CSV cannot be read.") from None
    return _listed(wishes)


def of_uids(uids: Iterable[str]) -> list[Wish]:
    """Studies by their UIDs, numbered as they were given.

    Raises:
        DataError: One is no UID (STR-447).
    """
    return _listed([(n, {"StudyInstanceUID": uid.strip()}) for n, uid in enumerate(uids, 1)])


def of_query(pairs: Sequence[str]) -> list[Wish]:
    """``KEY=VALUE`` pairs, all of which a study must match.

    Raises:
        DataError: No such key (STR-447); nothing that narrows the query down (STR-446).
    """
    keys: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in STUDY_KEYS | SERIES_KEYS:
            raise DataError(
                "A --query is not KEY=VALUE with a key that can be asked for.",
                fix=f"Use keys among {', '.join(sorted(STUDY_KEYS | SERIES_KEYS))}.",
                code="STR-447",
            )
        keys[key] = value.strip()
    if not any(_narrows(key, value) for key, value in keys.items()):
        raise DataError(
            "The query would match the whole archive.",
            fix=f"Add one of {', '.join(sorted(NARROWING))}, with at least {FEWEST_LETTERS} letters"
            " besides wildcards; a StudyDate needs both ends.",
            code="STR-446",
        )
    return [_wish(0, keys)]


def _narrows(key: str, value: str) -> bool:
    if key not in NARROWING:
        return False
    if key == "StudyDate":
        return all(len(end) == 8 and end.isdigit() for end in value.split("-"))
    return len(value) > 0 and (
        not WILD & set(value) or sum(c.isalnum() for c in value) >= FEWEST_LETTERS
    )


def _listed(lines: Sequence[tuple[int, Mapping[str, str]]]) -> list[Wish]:
    """Wishes of a list: each names one study, none twice."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    wishes = []
    for number, keys in lines:
        named = keys.get("StudyInstanceUID", keys.get("AccessionNumber", ""))
        if not named or any(WILD & set(value) for value in keys.values()):
            raise _unreadable(
                f"Line {number} names no study exactly: it is empty or holds a wildcard."
            )
        uid = keys.get("StudyInstanceUID", "1")
        if len(named) > 64 or not uid.replace(".", "").isdigit() or not named.isprintable():
            raise _unreadable(f"Line {number} is no accession number or UID.")
        if (one := tuple(sorted(keys.items()))) not in seen:
            seen.add(one)
            wishes.append(_wish(number, keys))
    if not wishes:
        raise _unreadable("The list is empty.")
    return wishes


def _wish(line: int, keys: Mapping[str, str]) -> Wish:
    return Wish(
        line,
        {k: v for k, v in keys.items() if k in STUDY_KEYS},
        {k: v for k, v in keys.items() if k in SERIES_KEYS},
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise _unreadable("The list of studies cannot be read as UTF-8 text.") from None


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Give one accession number a line, or a CSV whose header names DICOM keywords.",
        code="STR-447",
    )
