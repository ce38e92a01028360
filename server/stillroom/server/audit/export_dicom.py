"""The log as DICOM audit messages (PS3.15 section A.5), one complete XML document a line. Pure.

A line is what an audit repository takes in a syslog message (RFC 5424, message ID ``IHE+RFC-3881``
or ``DICOM+RFC3881``); the syslog header is the sender's to add.

A message with an event of DICOM's own is bound by the template of that event in A.5.3. Two of them
fit: Application Activity, for runs of a study, and Security Alert, for members, consents and what the
edge refused. Import, Export and Audit Log Used ask for patients and studies, which the log does not
have, or speak of readers; for all else the event is the entry's kind, under a private designator.
"""

import base64
from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, SubElement, tostring

from stillroom.common.log_entries import Entry
from stillroom.server.audit.events import DCM, KINDS, Event, Participant, Thing, event_of, plain

ALERT, ACTIVITY = "110113", "110100"
PRIVATE = "99STILLROOM"
"""Designators that begin with 99 are private (PS3.16, section 8.2)."""
_ROLES = {"job": "20", "model": "5", "security": "13", "log": "13"}
"""ParticipantObjectTypeCodeRole: job, master file, security resource."""


def message_lines(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    """One message a line."""
    for index, entry in entries:
        element = message(event_of(index, entry), origin)
        text = plain(tostring(element, encoding="unicode")).replace("\n", "&#10;")
        yield f'<?xml version="1.0" encoding="UTF-8"?>{text}\n'


def message(event: Event, origin: str) -> Element:
    """One ``AuditMessage``, its parts in the order of the schema."""
    root = Element("AuditMessage")
    identification = SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=event.time,
        EventOutcomeIndicator=event.outcome,
    )
    if event.event in {ALERT, ACTIVITY} and event.type:
        _coded(identification, "EventID", event.event, "DCM", DCM[event.event])
        _coded(identification, "EventTypeCode", event.type, "DCM", DCM[event.type])
    else:
        _coded(identification, "EventID", event.kind, PRIVATE, KINDS[event.kind])
    if event.why:
        SubElement(identification, "EventOutcomeDescription").text = event.why
    for participant in event.participants:
        _participant(root, participant)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=origin)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    for thing in event.things:
        _thing(root, thing, alert=event.summary if event.event == ALERT else "")
    return root


def _coded(parent: Element, name: str, code: str, designator: str, meaning: str) -> None:
    attributes = {"csd-code": code, "codeSystemName": designator, "originalText": meaning}
    SubElement(parent, name, attributes)


def _participant(parent: Element, participant: Participant) -> None:
    element = SubElement(
        parent,
        "ActiveParticipant",
        UserID=participant.name,
        UserIsRequestor="true" if participant.requestor else "false",
    )
    if participant.role:
        _coded(element, "RoleIDCode", participant.role, "DCM", DCM[participant.role])


def _thing(parent: Element, thing: Thing, alert: str) -> None:
    element = SubElement(
        parent,
        "ParticipantObjectIdentification",
        ParticipantObjectID=thing.identity,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole=_ROLES[thing.kind],
    )
    _coded(element, "ParticipantObjectIDTypeCode", "12", "RFC-3881", "URI")
    SubElement(element, "ParticipantObjectName").text = thing.name
    details = {"Alert Description": alert} if alert else {}
    for name, value in {**details, **thing.detail}.items():
        encoded = base64.b64encode(value.encode("utf-8")).decode("ascii")
        SubElement(element, "ParticipantObjectDetail", type=name, value=encoded)
