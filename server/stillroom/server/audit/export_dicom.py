"""The log as DICOM audit messages (PS3.15 section A.5), one complete XML document a line. Pure.

A line is what an audit repository takes in a syslog message (RFC 5424, message ID ``IHE+RFC-3881``
or ``DICOM+RFC3881``); the syslog header is the sender's to add.
"""

import base64
from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element, SubElement, tostring

from stillroom.common.log_entries import Entry
from stillroom.server.audit.events import DCM, Event, Participant, Thing, event_of

_ROLES = {"job": "20", "model": "4", "security": "13", "log": "3"}
"""ParticipantObjectTypeCodeRole: job, domain resource, security resource, report."""
_CODE = ("stillroom-object", "99STILLROOM")
"""A private code (designators that begin with 99 are): PS3.16 has none for weights or a study's round."""


def message_lines(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    """One message a line."""
    for index, entry in entries:
        element = message(event_of(index, entry), origin)
        text = tostring(element, encoding="unicode").replace("\n", "&#10;")
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
    _coded(identification, "EventID", event.event)
    if event.type:
        _coded(identification, "EventTypeCode", event.type)
    if event.why:
        SubElement(identification, "EventOutcomeDescription").text = event.why
    for participant in event.participants:
        _participant(root, participant)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=origin)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    for thing in event.things:
        _thing(root, thing)
    return root


def _coded(parent: Element, name: str, code: str) -> None:
    attributes = {"csd-code": code, "codeSystemName": "DCM", "originalText": DCM[code]}
    SubElement(parent, name, attributes)


def _participant(parent: Element, participant: Participant) -> None:
    element = SubElement(
        parent,
        "ActiveParticipant",
        UserID=participant.name,
        UserIsRequestor="true" if participant.requestor else "false",
    )
    if participant.role:
        _coded(element, "RoleIDCode", participant.role)


def _thing(parent: Element, thing: Thing) -> None:
    element = SubElement(
        parent,
        "ParticipantObjectIdentification",
        ParticipantObjectID=thing.identity,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole=_ROLES[thing.kind],
    )
    code, system = _CODE
    attributes = {"csd-code": code, "codeSystemName": system, "originalText": thing.kind}
    SubElement(element, "ParticipantObjectIDTypeCode", attributes)
    SubElement(element, "ParticipantObjectName").text = thing.name
    for name, value in thing.detail.items():
        encoded = base64.b64encode(value.encode("utf-8")).decode("ascii")
        SubElement(element, "ParticipantObjectDetail", type=name, value=encoded)
