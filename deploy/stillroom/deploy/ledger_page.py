"""docs/reference/ledger.md: the form of a site's ledger, from the model that reads and writes it.

The example on the page is written by the ledger itself, so that its chain can be recomputed.
"""

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stillroom.client.ledger import FIRST, LONGEST, Entry, Ledger, Line

BEGIN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
KINDS = {
    "task": "the server asked for work; allowed or refused before the runner saw it",
    "sent": "an answer may leave, and does next; the line is on the disk before its first byte goes",
    "refused": "the gate stopped an answer or a request; the server is told `code` and no more",
    "withheld": "an answer stayed here because the server wanted it no more, or nobody asked for it",
    "paused": "somebody at this site paused it; from here on no task is taken",
    "resumed": "the pause is over; tasks are taken again",
}
TYPES = {"string": "text", "integer": "integer", "number": "number", "object": "table of numbers"}


def ledger_page() -> str:
    """The page, as Markdown."""
    schema = Line.model_json_schema()
    kinds = schema["properties"]["kind"]["enum"]
    return "\n".join(
        [
            "# The ledger, line by line",
            "",
            "`ledger.jsonl` at a site holds one JSON object a line, for everything that left and",
            "everything that was refused. This page is made from the model that reads it.",
            "How to use it is in [what leaves](../hospital-it/what-leaves.md) and in",
            "[for auditors](../auditors/index.md).",
            "",
            "## Kinds",
            "",
            "| `kind` | says |",
            "|---|---|",
            *(f"| `{kind}` | {KINDS[kind]} |" for kind in kinds),
            "",
            "## Fields",
            "",
            "Every line has all of them, no other, and each name once; `encoding` is left out where no",
            "file left.",
            "",
            "| field | type | meaning |",
            "|---|---|---|",
            *(_row(name, field) for name, field in schema["properties"].items()),
            "",
            *_chain(),
            "## Example",
            "",
            "A task, its answer, and an answer that was refused, as the program writes them:",
            "",
            "```json",
            *_example(),
            "```",
            "",
            "## JSON Schema",
            "",
            "Of one line; draft 2020-12. The chain is beyond what a schema can say.",
            "",
            "```json",
            json.dumps(_plain(schema), indent=1),
            "```",
            "",
        ]
    )


def _row(name: str, field: dict[str, Any]) -> str:
    kind = (
        "time" if field.get("format") == "date-time" else TYPES.get(field.get("type", ""), "text")
    )
    if "enum" in field:
        kind = " or ".join(f"`{value}`" for value in field["enum"])
    elif "64}" in field.get("pattern", ""):
        kind = "64 hex digits, or empty"
    text = " ".join(field.get("description", "").replace("``", "`").split())
    return f"| `{name}` | {kind} | {text} |"


def _chain() -> list[str]:
    return [
        "## The chain",
        "",
        "1. A line is the canonical JSON of its object: keys sorted, no white space, UTF-8; it ends",
        f"   with one line feed and has at most {LONGEST} bytes.",
        "2. `sequence` counts from 0 without gaps.",
        "3. `prev` is the SHA-256 of the line before, without its line feed; in the first line it is",
        f"   {len(FIRST)} zeros.",
        "4. A last line without a line feed was being written when the machine stopped. Nothing left",
        "   on the strength of it; the courier moves it to `ledger.torn-1`.",
        "",
        "A line that was changed, removed or put in between breaks rule 2 or 3 in the line after it.",
        "No later line speaks for the very last one, and a chain that was cut short is still a chain:",
        "keep the hash of the last line and the number of lines elsewhere (`ledger verify` prints them).",
        "",
    ]


def _example() -> list[str]:
    """Three lines of a real ledger, with invented digests."""
    asked = {"study": "5" * 64, "stage": "student", "round": 3, "message": "round"}
    allowed = asked | {"request": "a" * 64, "decision": "allowed"}
    sent = {
        "content": "c" * 64,
        "encoding": "bf16-delta",
        "bytes": 2_051_930,
        "norm": 31.25,
        "samples": {"trunk": 12, "vessels": 9},
        "metrics": {"train.cases": 12.0, "train.loss": 0.375},
    }
    refused = {"request": "b" * 64, "round": 4, "decision": "refused", "code": "STR-303"}
    entries = [
        {"time": BEGIN, "kind": "task", **allowed},
        {"time": BEGIN + timedelta(minutes=7), "kind": "sent", **allowed, **sent},
        {"time": BEGIN + timedelta(minutes=15), "kind": "refused", **asked, **refused},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        with Ledger(path) as ledger:
            for entry in entries:
                ledger.append(Entry.model_validate(entry))
        return path.read_text("utf-8").splitlines()


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what only Python's side needs, as every line in a file fulfils it."""
    fields = {
        name: {
            key: value
            for key, value in field.items()
            if key not in ("title", "default", "description")
        }
        for name, field in schema["properties"].items()
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(fields.keys() - {"encoding"}),
        "properties": dict(sorted(fields.items())),
    }
