"""What a report says of a whole scan: CSV with the columns ``series`` and ``class``.

``series`` is what a CSV of points calls a scan: its series UID, the file name without suffix, or
the name of its folder. A column ``label`` is allowed, for a table about several labels. A row with
an empty ``class`` says that nobody has judged this scan.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.errors import DataError
from stillroom.common.study import BagLabel

MAX_BYTES = 64 * 2**20
"""A line a scan is kilobytes; anything larger is another kind of file."""
COLUMNS = ("series", "class")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row.

    Attributes:
        series: The scan, as written.
        value: Its class, as written; empty when nobody has judged it.
        label: Study label it belongs to; empty when the file does not say.
    """

    series: str
    value: str
    label: str = ""


def is_table(file: Path) -> bool:
    """Whether a CSV's header names a class for each scan rather than points; False when unreadable."""
    try:
        header = set(_header(csv.DictReader(io.StringIO(_text(file)), skipinitialspace=True)))
    except (DataError, csv.Error):
        return False
    return "class" in header and not {"x", "y", "z"} & header


def read_table(file: Path) -> list[Judgement]:
    """All rows of a table of classes.

    Raises:
        DataError: A column is missing, or a row names no scan or has too many columns; names the
            line, never its content (STR-431).
    """
    reader = csv.DictReader(io.StringIO(_text(file)), skipinitialspace=True, strict=True)
    try:
        header = _header(reader)
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise _unreadable(f"A table of classes lacks the column {', '.join(missing)}.")
        rows = []
        for row in reader:
            cells = {name: str(row.get(key) or "").strip() for name, key in header.items()}
            if None in row or not cells["series"]:
                raise _unreadable(
                    f"Line {reader.line_num} of a table of classes names no scan or has too many "
                    "columns."
                )
            rows.append(Judgement(cells["series"], cells["class"], cells.get("label", "")))
        return rows
    except csv.Error as error:
        raise _unreadable(f"Line {reader.line_num} of a table of classes is malformed.") from error


def read_class(
    file: Path,
    label: BagLabel,
    names: Mapping[str, str],
    *,
    series: Iterable[str],
    label_name: str = "",
) -> str | None:
    """The study's class of one scan; None when nobody has judged it.

    Args:
        file: A table of classes.
        label: Its ``classes`` are the ones there are.
        names: Study class -> what the file writes, where they differ.
        series: What this scan may be called.
        label_name: Rows whose column ``label`` says another one are left out.

    Raises:
        DataError: Unreadable, or a class that the study does not have (STR-431); more than one row
            about the scan (STR-433). Never quotes a cell.
    """
    keys = set(series)
    found = [
        row.value
        for row in rows_of(read_table(file), label_name)
        if row.series in keys and row.value
    ]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(
            "A table of classes has more than one row about the same scan.",
            fix="Keep one row for each scan and label.",
            code="STR-433",
        )
    by_name = {names.get(one, one).strip().lower(): one for one in label.classes}
    if (known := by_name.get(found[0].lower())) is None:
        raise DataError(
            "A table of classes holds a class that the study does not have.",
            fix=f"Write one of {', '.join(names.get(one, one) for one in label.classes)}, or say "
            "under `classes` of this label how the file writes them.",
            code="STR-431",
        )
    return known


def rows_of(rows: Sequence[Judgement], label_name: str) -> list[Judgement]:
    """Rows about one label; what a row does not say, it does not restrict."""
    wanted = label_name.lower()
    return [row for row in rows if not row.label or not wanted or row.label.lower() == wanted]


def _header(reader: "csv.DictReader[str]") -> dict[str, str]:
    return {str(name).strip().lower(): name for name in reader.fieldnames or []}


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _unreadable("A table of classes is too large to be one.")
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("A table of classes cannot be read as UTF-8 text.") from error


def _unreadable(what: str) -> DataError:
    return DataError(
        what, fix="Correct the file: CSV with the columns series and class.", code="STR-431"
    )
