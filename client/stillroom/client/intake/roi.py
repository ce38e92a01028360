"""Boxes around the heart that a site gives for its scans: CSV or JSON, LPS millimetres."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid, Points
from stillroom.client.intake.resampling import Box
from stillroom.common.errors import DataError

COLUMNS = ("x_low", "y_low", "z_low", "x_high", "y_high", "z_high")


def read_boxes(file: Path) -> dict[str, Box]:
    """Box by series UID or file stem.

    Raises:
        DataError: Unreadable, or a box that is not two ordered corners; names the line or the
            entry's number, never its content (STR-431).
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable("The file of heart boxes cannot be read as UTF-8 text.") from error
    return _of_csv(text) if file.suffix.lower() == ".csv" else _of_json(text)


def box_around(mask: NDArray[np.uint8], grid: Grid) -> Box | None:
    """The box (LPS mm) that holds every labelled voxel of a mask ``(D, H, W)``; None if empty."""
    spans = []
    for axes in ((0, 1), (0, 2), (1, 2)):
        where = np.flatnonzero(mask.any(axis=axes))
        if not where.size:
            return None
        spans.append((where[0] - 0.5, where[-1] + 0.5))
    ends = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(8, 3)
    return _bounds(grid.to_mm(ends))


def widened(box: Box, margin_mm: float) -> Box:
    """A box with a margin on every side."""
    (a, b, c), (d, e, f) = box
    m = margin_mm
    return (a - m, b - m, c - m), (d + m, e + m, f + m)


def _bounds(points: Points) -> Box:
    a, b, c = (float(v) for v in points.min(axis=0))
    d, e, f = (float(v) for v in points.max(axis=0))
    return (a, b, c), (d, e, f)


def _of_csv(text: str) -> dict[str, Box]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True)
    boxes: dict[str, Box] = {}
    try:
        if not {"series", *COLUMNS} <= set(reader.fieldnames or ()):
            raise _unreadable(f"The CSV of heart boxes needs series, {', '.join(COLUMNS)}.")
        for row in reader:
            corner = [row.get(column) for column in COLUMNS]
            place = f"Line {reader.line_num}"
            boxes[str(row["series"]).strip()] = _box([corner[:3], corner[3:]], place)
    except csv.Error as error:
        raise _unreadable("The CSV of heart boxes is malformed.") from error
    return boxes


def _of_json(text: str) -> dict[str, Box]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable("The file of heart boxes is not JSON.") from error
    if not isinstance(raw, dict):
        raise _unreadable("The file of heart boxes is not an object.")
    return {
        name: _box(value, f"Entry {number}") for number, (name, value) in enumerate(raw.items(), 1)
    }


def _box(raw: Any, place: str) -> Box:
    try:
        low, high = raw
        a, b, c = (float(v) for v in low)
        d, e, f = (float(v) for v in high)
    except (TypeError, ValueError) as error:
        raise _unreadable(f"{place} of the heart boxes is not two corners.") from error
    ordered = a < d and b < e and c < f
    if not ordered or not all(math.isfinite(v) for v in (a, b, c, d, e, f)):
        raise _unreadable(f"{place} of the heart boxes is not a low and a high corner.")
    return (a, b, c), (d, e, f)


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Write one low and one high corner per series, in LPS mm.",
        code="STR-431",
    )
