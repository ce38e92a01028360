"""Choosing entries of a log, and saying one in a line. Pure."""

import json
from dataclasses import dataclass

from stillroom.common.log_entries import Entry

_SHOWN_ELSEWHERE = frozenset({"time", "kind"})
_LONG = frozenset({"record", "signature", "checkpoint"})
"""Signed texts: only their length is shown; ``export`` has them whole."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What an auditor wants to see; None takes anything.

    Attributes:
        site: The entry is by or about this site.
        study: Its study's digest begins so.
        stage: Of this stage.
        round: Of this round.
        kind: Of this kind.
    """

    site: str | None = None
    study: str | None = None
    stage: str | None = None
    round: int | None = None
    kind: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Whether ``entry`` is one of them."""
        facts = entry.model_dump(mode="json")
        if self.study is not None and not str(facts.get("study", "")).startswith(self.study):
            return False
        if self.site is not None and not _names(facts, self.site):
            return False
        wanted = (("stage", self.stage), ("round", self.round), ("kind", self.kind))
        return all(value is None or facts.get(name) == value for name, value in wanted)


def _names(facts: dict[str, object], site: str) -> bool:
    if facts.get("site") == site:
        return True
    places = (facts.get(name) for name in ("invited", "left_out", "order", "expected", "missing"))
    return any(site in place for place in places if isinstance(place, (list, dict)))


def line(index: int, entry: Entry) -> str:
    """An entry in a line: index, time, kind, and every fact it has."""
    facts = entry.model_dump(mode="json")
    parts = [
        f"{name}={_said(name, value)}"
        for name, value in facts.items()
        if name not in _SHOWN_ELSEWHERE and value not in (None, "", [], {})
    ]
    return f"{index:>6} {facts['time']} {facts['kind']:<10} {' '.join(parts)}"


def _said(name: str, value: object) -> str:
    if isinstance(value, str):
        if name in _LONG:
            return f"({len(value)} characters)"
        is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
        return value[:16] + "…" if is_digest else value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
