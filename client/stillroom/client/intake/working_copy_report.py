"""What became of every series when its working copy was brought up to date."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stillroom.client.intake.catalogue import Finding
from stillroom.common.errors import DataError


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


def unchanged(note: Path, fingerprint: str) -> list[LabelFinding] | None:
    """What was found last time, if nothing has changed since."""
    try:
        raw = json.loads(note.read_text("utf-8"))
        if raw["fingerprint"] != fingerprint or not (note.parent / "case.json").exists():
            return None
        return [
            LabelFinding(item["case"], item["label"], Finding(**item["finding"]))
            for item in raw["labels"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
