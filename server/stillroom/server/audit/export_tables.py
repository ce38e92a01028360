"""The log as JSON Lines and as CSV: for whoever reads it with tools of their own. Pure."""

import csv
import io
import json
from collections.abc import Iterable, Iterator

from stillroom.common.canonical import canonical_bytes
from stillroom.common.log_entries import Entry

COLUMNS = (
    "index", "time", "kind", "site", "study", "run", "stage", "round", "act", "status", "code",
    "sha256", "bytes", "model_sha256", "order", "missing", "rest",
)  # fmt: skip
"""``rest`` is JSON of every fact that has no column."""


def json_lines(entries: Iterable[tuple[int, Entry]]) -> Iterator[str]:
    """One object a line: the entry with its index."""
    for index, entry in entries:
        yield canonical_bytes({"index": index, **entry.model_dump(mode="json")}).decode() + "\n"


def csv_lines(entries: Iterable[tuple[int, Entry]]) -> Iterator[str]:
    """RFC 4180, with a header."""
    yield _row(COLUMNS)
    for index, entry in entries:
        facts = {"index": index, **entry.model_dump(mode="json")}
        rest = {key: value for key, value in facts.items() if key not in COLUMNS}
        facts["rest"] = rest or None
        yield _row([_cell(facts.get(name)) for name in COLUMNS])


def _row(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _cell(value: object) -> str:
    if value is None or value in ([], {}):
        return ""
    text = (
        value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    )
    # A spreadsheet takes what begins so for a formula; nothing of ours does, but names might.
    return "'" + text if text[:1] in "=+-@\t\r" and not isinstance(value, int) else text
