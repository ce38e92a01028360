"""What AuditEvents and DICOM audit messages must be, by what is published of them.

FHIR R4: HL7's own JSON Schema (``fhir-r4-auditevent.schema.json``); ``fhir.resources``, the R4B models
of another implementer, whose AuditEvent is R4's; and the few rules that neither of the two knows.
``make proof`` asks a validator of HL7's StructureDefinitions as well (``structure.py``).

DICOM: the grammar of PS3.15 A.5.1 in RELAX NG (``dicom-audit-message.rng``), what A.5.2 says about
every message, and the templates of A.5.3 for the events that have one.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from jsonschema import Draft6Validator
from lxml import etree
from pydantic import ValidationError

HERE = Path(__file__).parent
FHIR = Draft6Validator(json.loads((HERE / "fhir-r4-auditevent.schema.json").read_text("utf-8")))
DICOM = etree.RelaxNG(etree.parse(HERE / "dicom-audit-message.rng"))

DCM = "http://dicom.nema.org/resources/ontology/DCM"
DCM_EVENTS = {str(code) for code in range(110100, 110115)}
"""CID 400."""
DCM_TYPES = {str(code) for code in range(110120, 110148)}
"""CID 401 and 403."""
DCM_ROLES = {str(code) for code in range(110150, 110156)}
"""CID 402."""
NOT_STRING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
OWN = "urn:stillroom:log-entry-kind"
URI = "urn:ietf:rfc:3986"


def fhir_problems(bundle: Any) -> list[str]:
    """What is wrong with a collection of AuditEvents."""
    problems = [f"{error.json_path}: {error.message[:200]}" for error in FHIR.iter_errors(bundle)]
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        problems += [f"{one['loc']}: {one['msg']}" for one in error.errors()]
    urls = [entry.get("fullUrl") for entry in bundle["entry"]]
    if len(set(urls)) != len(urls):
        problems.append("bdl-7: a fullUrl occurs twice")
    for number, entry in enumerate(bundle["entry"]):
        problems += [f"entry[{number}]: {what}" for what in _event(entry["resource"])]
    return problems


def _event(resource: Mapping[str, Any]) -> Iterator[str]:
    """What R4 says of an AuditEvent in words, bindings and invariants."""
    agents, entities = resource.get("agent", []), resource.get("entity", [])
    if not agents:
        yield "agent: 1..*"
    if sum(agent["requestor"] for agent in agents) > 1:
        yield "agent.requestor: there is one initiator at most"
    if any("name" in entity and "query" in entity for entity in entities):
        yield "sev-1: a name and a query"
    identifiers = [entity["what"].get("identifier", {}) for entity in entities if "what" in entity]
    for identifier in identifiers:
        if identifier.get("value", "").startswith("urn:") and identifier.get("system") != URI:
            yield "identifier.system: of a value that is a URI, it must say so"
    roles = [coding for agent in agents for coding in agent.get("type", {}).get("coding", [])]
    yield from _codes([resource.get("type", {})], {DCM: DCM_EVENTS})
    yield from _codes(resource.get("subtype", []), {DCM: DCM_TYPES, OWN: None})
    yield from _codes(roles, {DCM: DCM_ROLES})

    texts = [entity.get("name", "") for entity in entities] + [resource.get("outcomeDesc", "")]
    texts += [one["valueString"] for entity in entities for one in entity.get("detail", [])]
    if any(NOT_STRING.search(text) for text in texts):
        yield "string: a control character"


def _codes(
    codings: list[Mapping[str, str]], systems: Mapping[str, set[str] | None]
) -> Iterator[str]:
    for coding in codings:
        system, code = coding.get("system", ""), coding.get("code")
        known = systems.get(system)
        if system not in systems or (known is not None and code not in known):
            yield f"{code} of {system} is not in the value set"


def dicom_problems(document: str) -> list[str]:
    """What is wrong with one audit message."""
    root = etree.fromstring(document.encode("utf-8"))
    if not DICOM.validate(root):
        return [str(error) for error in DICOM.error_log]
    return [*_general(root), *_template(root)]


def _general(root: Any) -> Iterator[str]:
    """A.5.2: of every message."""
    event = root.find("EventIdentification")
    if not re.search(r"(Z|[+-]\d\d:\d\d)$", event.get("EventDateTime")):
        yield "A.5.2.5: EventDateTime without a time zone"
    requestors = [one for one in root.iter("ActiveParticipant") if _true(one)]
    if len(requestors) > 1:
        yield "A.5.2: several participants as UserIsRequestor"
    for role in root.iter("RoleIDCode"):
        if role.get("codeSystemName") != "DCM" or role.get("csd-code") not in DCM_ROLES:
            yield "CID 402: another role"
    code = event.find("EventID")
    system = code.get("codeSystemName")
    if system != "DCM" and not system.startswith("99"):
        yield "PS3.16: a code system that is neither known nor private"
    if system == "DCM" and code.get("csd-code") not in DCM_EVENTS:
        yield "CID 400: another event"


def _template(root: Any) -> Iterator[str]:
    """A.5.3: of the two events that we use of DICOM's own; any other is used wrongly."""
    event = root.find("EventIdentification")
    code = event.find("EventID")
    if code.get("codeSystemName") != "DCM":
        return
    if event.get("EventActionCode") != "E":
        yield "A.5.3.1, A.5.3.11: EventActionCode shall be E"
    types = [one.get("csd-code") for one in event.iter("EventTypeCode")]
    roles = [one.get("csd-code") for one in root.iter("RoleIDCode")]
    if code.get("csd-code") == "110100":
        if types not in (["110120"], ["110121"]):
            yield "A.5.3.1: neither start nor stop"
        if roles.count("110150") != 1:
            yield "A.5.3.1: not one application that was started"
    elif code.get("csd-code") == "110113":
        if len(types) != 1 or types[0] not in DCM_TYPES:
            yield "A.5.3.11: EventTypeCode of CID 403"
        yield from _alert_subjects(root)
    else:
        yield "A.5.3: an event whose template asks for patients, studies or readers"


def _alert_subjects(root: Any) -> Iterator[str]:
    for subject in root.iter("ParticipantObjectIdentification"):
        if subject.get("ParticipantObjectTypeCode") != "2":
            yield "A.5.3.11: an alert's subject is a system object"
        kind = subject.find("ParticipantObjectIDTypeCode")
        if (kind.get("csd-code"), kind.get("codeSystemName")) not in {
            ("12", "RFC-3881"),
            ("110182", "DCM"),
        }:
            yield "A.5.3.11: an alert's subject is a URI or a node"
        said = {
            one.get("type"): one.get("value") for one in subject.iter("ParticipantObjectDetail")
        }
        if not base64.b64decode(said.get("Alert Description", "")):
            yield "A.5.3.11: an alert's subject has an Alert Description"


def _true(participant: Any) -> bool:
    return participant.get("UserIsRequestor") in {"true", "1"}
