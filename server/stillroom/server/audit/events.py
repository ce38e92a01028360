"""An entry as an event that happened to somebody: what both audit formats are written from. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

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

KINDS: Mapping[str, str] = {
    "consortium": "Consortium described",
    "member": "Membership changed",
    "consent": "Consent given or withdrawn",
    "study": "Run of a study started, resumed or stopped",
    "stage": "Stage opened",
    "round": "Round opened, model offered to sites",
    "update": "Answer of a site admitted or not",
    "commit": "Round committed",
    "score": "Model scored at sites",
    "finish": "Run of a study ended",
    "release": "Release made",
    "witness": "Checkpoint cosigned by sites",
    "operator": "Action of an operator",
    "refused": "Connections and requests refused",
}
"""Kind of entry -> what happened: the words to our own codes."""
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
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
SERVER, OPERATOR = "server", "operator"
"""Who takes part besides sites. The log does not say which operator did a thing."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in an event: a site, an operator, the server.

    Attributes:
        name: Its name in the consortium.
        requestor: Whether the event was its doing. Of one participant at most, and of nobody where
            several had an equal part in it: both formats ask for that.
        role: 110150, 110152 or 110153; empty for a person.
    """

    name: str
    requestor: bool
    role: str = ""


@dataclass(frozen=True, slots=True)
class Thing:
    """What an event was about.

    Attributes:
        identity: A URI: a digest as ``urn:sha256:...``, with a fragment for a part of a study.
        name: For people.
        kind: ``job`` for studies, runs, stages and rounds, ``model`` for weights, ``security`` for who
            may do what, ``log`` for the entry itself.
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
        event: Code of the event's family (CID 400).
        type: Code of its type (CID 401); empty where none fits.
        action: What was done to the things.
        outcome: How it ended.
        why: Why it did not succeed.
        summary: What happened, in one line.
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
    summary: str
    participants: tuple[Participant, ...]
    things: tuple[Thing, ...]


def plain(text: str) -> str:
    """Text without what neither an XML document nor a FHIR string may hold, however it is written."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def event_of(index: int, entry: Entry) -> Event:
    """An entry as an event. Every fact of the entry is in one of its details, unchanged."""
    kind = _kind(entry)
    code, type_, action = _CODES[kind]
    if isinstance(entry, StudyStarted) and entry.act == "stopped":
        type_ = "110121"
    outcome, why = _outcome(entry)
    return Event(
        index=index,
        kind=kind,
        time=entry.time,
        event=code,
        type=type_,
        action=action,
        outcome=outcome,
        why=why,
        summary=_summary(entry),
        participants=_participants(entry),
        things=(*_things(entry), _itself(index, entry)),
    )


_CODES: Mapping[str, tuple[str, str, Action]] = {
    "consortium": ("110113", "110129", "E"),
    "member": ("110113", "110136", "E"),
    "consent": ("110113", "110137", "E"),
    "study": ("110100", "110120", "E"),
    "stage": ("110100", "", "E"),
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


def _summary(entry: Entry) -> str:
    """One line for people; the facts themselves are in the entry's details."""
    said = [KINDS[_kind(entry)]]
    for key in ("site", "act", "subject", "stage", "round", "status", "name"):
        value = getattr(entry, key, None)
        if value not in (None, ""):
            said.append(f"{key} {value}")
    return ", ".join(said)


def _participants(entry: Entry) -> tuple[Participant, ...]:
    """The server reports alerts, and whoever acted stands beside it: PS3.15 A.5.3.11 has it so."""
    match entry:
        case Update():
            return _sender(entry.site, requestor=True), _receiver(SERVER)
        case RoundOpened():
            return _sender(SERVER, requestor=True), *map(_receiver, entry.invited)
        case Scored():
            return *(_sender(site, requestor=False) for site in entry.sites), _receiver(SERVER)
        case Consent() | Member():
            return _program(SERVER, requestor=True), _program(entry.site, requestor=False)
        case ConsortiumOpened():
            return _program(SERVER, requestor=True), Participant(OPERATOR, requestor=False)
        case Operator() | Release():
            return Participant(OPERATOR, requestor=True), _program(SERVER, requestor=False)
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
        case StageOpened():
            found.append(_part(entry.study, f"stage {entry.stage}", entry.stage))
        case RoundOpened() | Update() | RoundCommitted() | Scored():
            name = f"stage {entry.stage}, round {entry.round}"
            found.append(_part(entry.study, name, f"{entry.stage}/{entry.round}"))
        case StudyStarted() | StudyFinished():
            found.append(_part(entry.study, f"run {entry.run}", entry.run))
        case _:
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


def _part(study: str, name: str, fragment: str) -> Thing:
    return Thing(f"{_urn(study)}#{quote(fragment)}", name, "job")


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
