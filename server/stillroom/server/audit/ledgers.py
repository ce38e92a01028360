"""A site's ledger as an auditor reads it. Pure.

Written from the description of the format (docs/hospital-it/what-leaves.md) and not from the
program that writes it, so that an error in one does not hide in the other; keys that a later
release adds are kept and not looked at.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from stillroom.common.canonical import canonical_bytes

FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class SentLine:
    """A file that left, as the site wrote it down before it did.

    Attributes:
        line: In the file, from 1.
        time: UTC; None when it is not a time.
        study: Digest.
        stage: Name.
        round: From 1.
        content: SHA-256 of the file.
        bytes: Of the file.
        samples: Cases per group.
    """

    line: int
    time: datetime | None
    study: str
    stage: str
    round: int
    content: str
    bytes: int
    samples: Mapping[str, int]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What must be the same in the log."""
        return self.study, self.stage, self.round, self.content


@dataclass(slots=True)
class Ledger:
    """One site's ledger.

    Attributes:
        name: The file's.
        site: Whose, when the auditor said so.
        lines: How many hold.
        head: Hash of the last one.
        problems: (line from 1, what is wrong there); reading stops at the first.
        sent: Files that left.
        refused: How many replies or requests the gate stopped.
        torn: Whether a last line is unfinished.
    """

    name: str
    site: str | None = None
    lines: int = 0
    head: str = FIRST
    problems: list[tuple[int, str]] = field(default_factory=list)
    sent: list[SentLine] = field(default_factory=list)
    refused: int = 0
    torn: bool = False


def read_ledger(data: bytes, name: str, site: str | None = None) -> Ledger:
    """Read a ledger and recompute its chain."""
    ledger = Ledger(name, site)
    *whole, rest = data.split(b"\n")
    ledger.torn = bool(rest)
    for number, raw in enumerate(whole, 1):
        value = _value(raw)
        if value is None:
            ledger.problems.append((number, "is not a line as the courier writes it"))
            return ledger
        if value.get("prev") != ledger.head or value.get("sequence") != number - 1:
            problem = "does not follow from the line before: one of them was changed or removed"
            ledger.problems.append((number, problem))
            return ledger
        ledger.head, ledger.lines = hashlib.sha256(raw).hexdigest(), number
        ledger.refused += value.get("kind") == "refused"
        if value.get("kind") == "sent" and value.get("content"):
            sent = _sent(number, value)
            if sent is None:
                ledger.problems.append((number, "lacks a key, or has one of another type"))
                return ledger
            ledger.sent.append(sent)
    return ledger


def _value(raw: bytes) -> dict[str, Any] | None:
    """The object in a line, if it is spelt in the one way there is."""
    try:
        value = json.loads(raw)
        same = isinstance(value, dict) and canonical_bytes(value) == raw
    except (ValueError, RecursionError):
        return None
    return value if same else None


def _sent(number: int, value: dict[str, Any]) -> SentLine | None:
    samples = value.get("samples")
    texts = [value.get(key) for key in ("study", "stage", "content")]
    counts = [value.get(key) for key in ("round", "bytes")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(samples, dict):
        return None
    if not all(isinstance(count, int) for count in (*counts, *samples.values())):
        return None
    study, stage, content = map(str, texts)
    return SentLine(
        number, _time(value.get("time")), study, stage,
        int(value["round"]), content, int(value["bytes"]), samples,
    )  # fmt: skip


def _time(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None
