"""The log as FHIR R4 AuditEvents, as IHE's Basic Audit Log Patterns use them. Pure.

One Bundle (collection). What BALP takes from DICOM is kept: codes of DCM for event, type and roles,
the sender as Source Role ID and the receiver as Destination Role ID, the observer named in
``source``. The entry's kind is a further subtype, as BALP has transactions' own codes there. BALP's
own profiles are about REST transactions and about patients; the log has neither, so no
``meta.profile`` is claimed.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from stillroom.common.log_entries import Entry
from stillroom.server.audit.events import DCM, KINDS, Event, Participant, Thing, event_of, plain

DICOM = "http://dicom.nema.org/resources/ontology/DCM"
KIND = "urn:stillroom:log-entry-kind"
URI = "urn:ietf:rfc:3986"
"""What an Identifier whose value is a URI must name as its system."""
ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
SOURCE = "http://terminology.hl7.org/CodeSystem/security-source-type"
_ROLES = {"job": ("20", "Job"), "model": ("4", "Domain Resource")}
_ROLES |= {"security": ("13", "Security Resource"), "log": ("3", "Report")}


def bundle_text(entries: Iterable[tuple[int, Entry]], origin: str) -> Iterator[str]:
    """The Bundle, an entry at a time: a log may be longer than memory."""
    yield '{"resourceType":"Bundle","type":"collection","entry":['
    for number, (index, entry) in enumerate(entries):
        resource = audit_event(event_of(index, entry), origin)
        full = {"fullUrl": f"urn:stillroom:{origin}:{index}", "resource": resource}
        text = json.dumps(full, ensure_ascii=False, separators=(",", ":"))
        yield (",\n" if number else "\n") + text
    yield "\n]}\n"


def audit_event(event: Event, origin: str) -> dict[str, Any]:
    """One AuditEvent (R4, 4.0.1)."""
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"entry-{event.index}",
        "type": _coding(event.event),
        "action": event.action,
        "recorded": event.time,
        "outcome": event.outcome,
        "agent": [_agent(participant) for participant in event.participants],
        "source": {
            "observer": {"display": origin},
            "type": [{"system": SOURCE, "code": "4", "display": "Application Server"}],
        },
        "entity": [_entity(thing) for thing in event.things],
    }
    own = {"system": KIND, "code": event.kind, "display": KINDS[event.kind]}
    resource["subtype"] = [*([_coding(event.type)] if event.type else []), own]
    if event.why:
        resource["outcomeDesc"] = plain(event.why)
    return resource


def _coding(code: str) -> dict[str, str]:
    return {"system": DICOM, "code": code, "display": DCM[code]}


def _agent(participant: Participant) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "who": {"display": plain(participant.name)},
        "requestor": participant.requestor,
    }
    if participant.role:
        agent["type"] = {"coding": [_coding(participant.role)]}
    return agent


def _entity(thing: Thing) -> dict[str, Any]:
    code, display = _ROLES[thing.kind]
    entity: dict[str, Any] = {
        "what": {"identifier": {"system": URI, "value": thing.identity}},
        "type": {"system": ENTITY, "code": "2", "display": "System Object"},
        "role": {"system": ROLE, "code": code, "display": display},
        "name": plain(thing.name),
    }
    if thing.detail:
        entity["detail"] = [{"type": k, "valueString": plain(v)} for k, v in thing.detail.items()]
    return entity
