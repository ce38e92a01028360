"""The page of docs/reference about the log's entries, and their JSON Schema. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from stillroom.common.log_entries import json_schema

_INTRO = """# The log's entries

An entry is canonical JSON (keys sorted, no white space, UTF-8) of one of these kinds; one that is spelt
in another way is refused. Every key of its kind is written, those without a value as `null` or empty.
The same as JSON Schema: [log-schema.json](log-schema.json). No entry has a place for a value that derives
from a patient.

The log around them is in C2SP's formats: `checkpoint` (signed-note, tlog-checkpoint, tlog-cosignature)
and `tile/` (tlog-tiles), hashed as RFC 6962 says. [Why](../adr/0020-one-log-in-c2sp-formats.md); [how to
check one](../auditors/index.md)."""


def log_schema() -> str:
    """The JSON Schema of an entry."""
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"


def log_page() -> str:
    """A section for every kind, a row for every key."""
    schema = json_schema()
    kinds: Mapping[str, str] = schema["discriminator"]["mapping"]
    lines = [_INTRO]
    for kind, reference in kinds.items():
        lines += ["", *_section(kind, schema["$defs"][reference.rpartition("/")[2]])]
    return "\n".join(lines) + "\n"


def _section(kind: str, model: Mapping[str, Any]) -> Iterator[str]:
    yield f"## `{kind}`"
    yield ""
    yield " ".join(str(model.get("description", "")).split())
    yield ""
    yield "| key | type | meaning |"
    yield "|---|---|---|"
    for name, field in model["properties"].items():
        if name != "kind":
            text = " ".join(str(field.get("description", "")).split()).replace("|", "/")
            yield f"| `{name}` | {_type(field)} | {text.replace('``', '`')} |"


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f'"{value}"' for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'])}"
        case "object":
            return f"object of {_type(field['additionalProperties'])}"
        case "string" if "{64}" in field.get("pattern", ""):
            return "digest"
        case "string" if "STR-" in field.get("pattern", ""):
            return "code"
        case "string" if "T" in field.get("pattern", ""):
            return "time"
        case "string":
            return f"text, at most {field['maxLength']}" if "maxLength" in field else "text"
        case other:
            return str(other)
