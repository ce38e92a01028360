"""An entry as an event that happened to somebody: what both audit formats are written from. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stillroom.common.canonical import digest
from stillroom.common.log_entries import (
    Consent,
    ConsortiumOpened,
    Entry,
    Member,
    Operator,
    Refused,
    Release,
    RoundCommitted,
    RoundOpened,
    Scored,
    StageOpened,
    StudyFinished,
    StudyStarted,
    Update,
    Witnessed,
)

DCM: Mapping[str, str] = {
    "110100": "Application Activity",
    "110101": "Audit Log Used",
    "110106": "Export",
    "110107": "Import",
    "110113": "Security Alert",
    "110120": "Application Start",
    "110121": "Application Stop",
    "110126": "Node Authentication",
    "110129": "Security Configuration",
    "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110150": "Application",
    "110152": "Destination Role ID",
    "110153": "Source Role ID",
}
"""The codes used here, of DICOM's controlled terminology (PS3.16, CID 400, 401 and 402)."""

Action = Literal["C", "R", "U", "D", "E"]
Outcome = Literal["0", "4", "8", "12"]
"""Success, minor failure, serious failure, major failure."""
SERVER = "server"


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in an event: a site, an operator, the server.

    Attributes:
        name: Its name in the consortium.
        requestor: Whether the event was its doing.
        role: 110150, 110152 or 110153; empty for a person.
    """

    name: str
    requestor: bool
    role: str = ""


@dataclass(frozen=True, slots=True)
class Thing:
    """What an event was about.

    Attributes:
        identity: A digest as ``urn:sha256:...``, or a name.
        name: For people.
        kind: ``job`` for studies and rounds, ``model`` for weights, ``person`` never.
        detail: Further facts.
    """

    identity: str
    name: str
    kind: Literal["job", "model", "security", "log"]
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry, said in the words of DICOM PS3.15 A.5.

    Attributes:
        index: Of the entry.
        kind: Of the entry.
        time: As in the entry.
        event: Code of the event's kind (CID 400).
        type: Code of its type (CID 401); empty where none fits.
        action: What was done to the things.
        outcome: How it ended.
        why: Why it did not succeed.
        participants: Who; at least one.
        things: What it was about.
    """

    index: int
    kind: str
    time: str
    event: str
    type: str
    action: Action
    outcome: Outcome
    why: str
    participants: tuple[Participant, ...]
    things: tuple[Thing, ...]


def event_of(index: int, entry: Entry) -> Event:
    """An entry as an event. Every fact of the entry is in one of its details, unchanged."""
    code, type_, action = _CODES[_kind(entry)]
    outcome, why = _outcome(entry)
    return Event(
        index=index,
        kind=_kind(entry),
        time=entry.time,
        event=code,
        type=type_,
        action=action,
        outcome=outcome,
        why=why,
        participants=_participants(entry),
        things=(*_things(entry), _itself(index, entry)),
    )


_CODES: Mapping[str, tuple[str, str, Action]] = {
    "consortium": ("110113", "110129", "U"),
    "member": ("110113", "110136", "U"),
    "consent": ("110113", "110137", "U"),
    "study": ("110100", "110120", "E"),
    "stage": ("110100", "110120", "E"),
    "round": ("110106", "", "R"),
    "update": ("110107", "", "C"),
    "commit": ("110100", "", "C"),
    "score": ("110107", "", "C"),
    "finish": ("110100", "110121", "E"),
    "release": ("110106", "", "R"),
    "witness": ("110101", "", "R"),
    "operator": ("110100", "", "E"),
    "refused": ("110113", "110126", "E"),
}
"""Kind of entry -> event, type, action. An export is data leaving the server, an import arriving."""


def _kind(entry: Entry) -> str:
    return str(getattr(entry, "kind", ""))


def _outcome(entry: Entry) -> tuple[Outcome, str]:
    if isinstance(entry, Update) and entry.status != "admitted":
        return (
            "8" if entry.status == "refused" else "4"
        ), f"{entry.status} {entry.code or ''}".strip()
    if isinstance(entry, StudyFinished) and entry.status == "failed":
        return "12", f"failed {entry.code or ''}".strip()
    if isinstance(entry, RoundCommitted | Scored) and entry.missing:
        return "4", "missing: " + ", ".join(sorted(entry.missing))
    if isinstance(entry, Refused):
        return "8", ", ".join(f"{why}: {count}" for why, count in sorted(entry.reasons.items()))
    return "0", ""


def _participants(entry: Entry) -> tuple[Participant, ...]:
    match entry:
        case Update():
            return _sender(entry.site, requestor=True), _receiver(SERVER)
        case RoundOpened():
            return _sender(SERVER, requestor=True), *map(_receiver, entry.invited)
        case Consent():
            return _program(entry.site, requestor=True), _program(SERVER, requestor=False)
        case Member():
            return _program(entry.site, requestor=False), _program(SERVER, requestor=True)
        case Scored():
            return *(_sender(site, requestor=True) for site in entry.sites), _receiver(SERVER)
        case Operator() | ConsortiumOpened() | Release():
            return Participant("operator", requestor=True), _program(SERVER, requestor=False)
        case _:
            return (_program(SERVER, requestor=True),)


def _sender(name: str, *, requestor: bool) -> Participant:
    return Participant(name, requestor, "110153")


def _receiver(name: str) -> Participant:
    return Participant(name, requestor=False, role="110152")


def _program(name: str, *, requestor: bool) -> Participant:
    return Participant(name, requestor, "110150")


def _things(entry: Entry) -> tuple[Thing, ...]:
    study = getattr(entry, "study", None)
    found = [Thing(_urn(study), "study", "job")] if isinstance(study, str) else []
    match entry:
        case StageOpened() | RoundOpened() | Update() | RoundCommitted() | Scored():
            place = f"stage {entry.stage}"
            if not isinstance(entry, StageOpened):
                place += f", round {entry.round}"
            found.append(Thing(f"{study}/{place}", place, "job"))
        case StudyStarted() | StudyFinished():
            found.append(Thing(f"{study}/{entry.run}", f"run {entry.run}", "job"))
        case Consent() | Member() | ConsortiumOpened():
            pass
    for key, name in (
        ("sha256", "update" if isinstance(entry, Update) else "consortium.json"),
        ("base_sha256", "model it started from"),
        ("model_sha256", "model"),
        ("initial_sha256", "initial model"),
        ("student_sha256", "student"),
    ):
        value = getattr(entry, key, None)
        if isinstance(value, str):
            found.append(
                Thing(_urn(value), name, "model" if name != "consortium.json" else "security")
            )
    return tuple(found)


def _itself(index: int, entry: Entry) -> Thing:
    """The entry, with every one of its facts: an export loses nothing that the log says."""
    facts = entry.model_dump(mode="json")
    detail = {
        key: value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, ensure_ascii=False)
        for key, value in facts.items()
        if value not in (None, "", [], {}) and key != "time"
    }
    name = "recorded checkpoint" if isinstance(entry, Witnessed) else f"log entry {index}"
    return Thing(_urn(digest(facts)), name, "log", detail)


def _urn(value: str) -> str:
    return f"urn:sha256:{value}"
