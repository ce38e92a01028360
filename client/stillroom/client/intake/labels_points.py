"""Anatomical points: 3D Slicer markups JSON and CSV, in millimetres.

CSV has a header with ``name, x, y, z`` (LPS) and ``series`` (series UID or the scan's file name
without suffix; may be left out when the file is about one scan). A row with empty ``x, y, z``
says that the annotator looked and did not see the point. A column ``label`` is allowed.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.client.intake.store import Point
from stillroom.common.errors import DataError

MAX_BYTES = 64 * 2**20
"""A list of points is kilobytes; anything larger is another kind of file."""


@dataclass(frozen=True, slots=True)
class NamedPoint:
    """One point of a file.

    Attributes:
        name: As written, without surrounding white space.
        mm: LPS; None when marked as not visible.
        series: The scan it belongs to, as written; empty when the file does not say.
        label: Study label it belongs to; empty when the file does not say.
    """

    name: str
    mm: Point | None
    series: str = ""
    label: str = ""


def read_markups(file: Path) -> list[NamedPoint]:
    """Control points of a 3D Slicer markups file (schema 1.0), in LPS whatever it declares.

    Raises:
        DataError: Not a markups file, another unit, or a point that is not three numbers (STR-431).
    """
    try:
        content = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise _unreadable("A markups file is not JSON.") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list):
        raise _unreadable("A JSON file holds no markups.")
    points: list[NamedPoint] = []
    for markup in markups:
        if not isinstance(markup, dict):
            raise _unreadable("A markups file has an entry that is not an object.")
        sign = _sign(markup)
        controls = markup.get("controlPoints") or []
        if not isinstance(controls, list):
            raise _unreadable("A markups file has no list of control points.")
        points += [_control_point(control, sign) for control in controls]
    return points


def read_csv(file: Path) -> list[NamedPoint]:
    """All rows of a CSV of points.

    Raises:
        DataError: A column is missing, or a row is not three finite numbers; names the line,
            never its content (STR-431).
    """
    reader = csv.DictReader(io.StringIO(_text(file)), skipinitialspace=True, strict=True)
    try:
        header = {str(name).strip().lower(): name for name in reader.fieldnames or []}
        missing = [name for name in ("name", "x", "y", "z") if name not in header]
        if missing:
            raise _unreadable(f"A CSV of points lacks the column {', '.join(missing)}.")
        return [_row(row, header, reader.line_num) for row in reader]
    except csv.Error as error:
        raise _unreadable(f"Line {reader.line_num} of a CSV of points is malformed.") from error


def rows_of(
    points: Sequence[NamedPoint], series: Iterable[str], label_name: str = ""
) -> list[NamedPoint]:
    """The points of one scan and label; what a row does not say, it does not restrict."""
    keys = set(series)
    return [
        point
        for point in points
        if (not point.series or point.series in keys)
        and (not point.label or not label_name or point.label.lower() == label_name.lower())
    ]


def select(
    found: Sequence[NamedPoint], study_names: Sequence[str], names: Mapping[str, str]
) -> dict[str, Point | None]:
    """One entry per study name.

    Args:
        found: Points of one scan.
        study_names: All of them must occur; a point that was not seen is written down as such.
        names: Study name -> name in the file, where they differ.

    Raises:
        DataError: A name is missing or occurs twice (STR-431).
    """
    by_name: dict[str, list[NamedPoint]] = {}
    for point in found:
        by_name.setdefault(point.name.lower(), []).append(point)
    selected: dict[str, Point | None] = {}
    missing = []
    for name in study_names:
        hits = by_name.get(names.get(name, name).strip().lower(), [])
        if len(hits) > 1:
            raise _unreadable(f"The point {name} occurs more than once for one scan.")
        if not hits:
            missing.append(name)
        else:
            selected[name] = hits[0].mm
    if missing:
        raise DataError(
            f"A points label lacks {', '.join(missing)}.",
            fix="Add them; a point that cannot be seen is written with an undefined position.",
            code="STR-431",
        )
    return selected


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _unreadable("A file of points is too large to be one.")
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("A file of points cannot be read as UTF-8 text.") from error


def _sign(markup: Mapping[str, Any]) -> float:
    """1 for LPS, the schema's default, and -1 for RAS, whose first two axes point the other way."""
    system = markup.get("coordinateSystem", "LPS")
    if system not in ("LPS", "RAS"):
        raise _unreadable("A markups file is neither LPS nor RAS.")
    if markup.get("coordinateUnits", "mm") not in ("mm", ["mm", "mm", "mm"]):
        raise _unreadable("A markups file is not in millimetres.")
    return 1.0 if system == "LPS" else -1.0


def _control_point(control: object, sign: float) -> NamedPoint:
    if not isinstance(control, dict):
        raise _unreadable("A markups file has a control point that is not an object.")
    name = str(control.get("label", "")).strip()
    position = control.get("position")
    if control.get("positionStatus", "defined") != "defined" or position is None:
        return NamedPoint(name, None)
    if not isinstance(position, list) or len(position) != 3:
        raise _unreadable("A control point is not three numbers.")
    x, y, z = (_number(value) for value in position)
    return NamedPoint(name, (sign * x, sign * y, z))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _unreadable("A control point is not three numbers.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _unreadable("A control point is not finite.")
    return number


def _row(row: Mapping[Any, Any], header: Mapping[str, str], line: int) -> NamedPoint:
    def cell(column: str) -> str:
        return str(row.get(header.get(column, column)) or "").strip()

    texts = [cell(axis) for axis in "xyz"]
    if None in row or not cell("name"):
        raise _unreadable(f"Line {line} of a CSV of points has no name or too many columns.")
    if not any(texts):
        return NamedPoint(cell("name"), None, cell("series"), cell("label"))
    try:
        x, y, z = (float(text) for text in texts)
    except ValueError as error:
        raise _unreadable(f"Line {line} of a CSV of points is not three numbers.") from error
    if not all(math.isfinite(value) for value in (x, y, z)):
        raise _unreadable(f"Line {line} of a CSV of points is not finite.")
    return NamedPoint(cell("name"), (x, y, z), cell("series"), cell("label"))


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Correct the file: markups JSON in mm, or CSV with series, name, x, y, z in LPS mm.",
        code="STR-431",
    )
