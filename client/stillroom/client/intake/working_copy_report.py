"""What became of every series when its working copy was brought up to date."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stillroom.client.intake.catalogue import Finding
from stillroom.common.errors import DataError

NOTE = "source.json"
"""Beside a case: digests only, no path and no tag."""


@dataclass(frozen=True, slots=True)
class LabelFinding:
    """A label of a case that could not be used; the case itself can."""

    case: str
    label: str
    finding: Finding


@dataclass(slots=True)
class PrepareReport:
    """What became of every accepted series; stays on the site.

    Attributes:
        written: Cases written anew.
        unchanged: Cases left as they were.
        removed: Working copies deleted because their series is gone or quarantined.
        failed: Case -> why it has no working copy.
        labels: Labels that could not be used.
    """

    written: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, Finding] = field(default_factory=dict)
    labels: list[LabelFinding] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write JSON beside ``path`` and rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1), "utf-8")
        os.replace(temporary, path)


def finding_of(error: Exception) -> Finding:
    """An exception as a reason; only our own errors are free of paths and tags, so only they speak."""
    match error:
        case DataError():
            return Finding(error.code, error.what, error.fix)
        case MemoryError():
            return Finding("STR-503", "The scan does not fit into memory.", "Add memory.")
        case _:
            return Finding(
                "STR-410", "The scan could not be read.", "Check the file and its permissions."
            )


def read_note(case: Path) -> dict[str, Any]:
    """What ``write_note`` left in a case's folder; empty when there is nothing to trust."""
    try:
        raw = json.loads((case / NOTE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) and (case / "case.json").exists() else {}


def write_note(
    case: Path, *, fingerprint: str, origin: str, findings: Sequence[LabelFinding]
) -> None:
    """Say what a finished case was made from. Written last: without it the case is done again."""
    content = {
        "fingerprint": fingerprint,
        "origin": origin,
        "labels": [asdict(finding) for finding in findings],
    }
    temporary = (case / NOTE).with_suffix(".tmp")
    temporary.write_text(json.dumps(content), "utf-8")
    os.replace(temporary, case / NOTE)


def unchanged(case: Path, fingerprint: str) -> list[LabelFinding] | None:
    """What was found last time; None when anything has changed since."""
    note = read_note(case)
    if note.get("fingerprint") != fingerprint:
        return None
    return [
        LabelFinding(item["case"], item["label"], Finding(**item["finding"]))
        for item in note["labels"]
    ]
