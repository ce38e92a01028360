"""What an AuditEvent and a DICOM audit message must be, written from their published definitions.

Not the standards' own schemas, which are not at hand offline, but every rule of them that touches
what we write: names and order of elements, how often each may occur, types, and the codes of every
bound value set. FHIR: R4 (4.0.1), AuditEvent, its resource profile and required bindings. DICOM:
PS3.15 section A.5.1, the RELAX NG schema of an audit message.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, fromstring

DCM_EVENTS = {str(code) for code in range(110100, 110115)}
"""CID 400."""
DCM_TYPES = {str(code) for code in range(110120, 110143)}
"""CID 401."""
DCM_ROLES = {"110150", "110151", "110152", "110153", "110154", "110155"}
"""CID 402."""
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
URI = re.compile(r"\S+")
STRING = re.compile(r"(?=.*\S)[ \r\n\t\S]+", re.DOTALL)
"""FHIR's ``string``: not empty, and more than white space."""


@dataclass(frozen=True)
class Field:
    """One element of a FHIR type: how often it may occur, and what it may hold."""

    least: int
    most: int | None
    check: Callable[[Any, str], Iterator[str]]


Shape = Mapping[str, Field]


def text(
    pattern: re.Pattern[str] = STRING, codes: set[str] | None = None
) -> Callable[[Any, str], Iterator[str]]:
    """A primitive that is a JSON string."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            yield f"{where}: not of its type"
        elif codes is not None and value not in codes:
            yield f"{where}: {value} is not in its value set"

    return check


def boolean(value: Any, where: str) -> Iterator[str]:
    """FHIR's boolean."""
    if not isinstance(value, bool):
        yield f"{where}: not true or false"


def shaped(
    shape: Shape, rule: Callable[[Mapping[str, Any], str], Iterator[str]] | None = None
) -> Any:
    """An element with parts: none unknown, each as often as it may occur; an optional invariant."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict) or not value:
            yield f"{where}: not an object with something in it"
            return
        for name in value.keys() - shape.keys():
            yield f"{where}.{name}: there is no such element"
        for name, part in shape.items():
            found = value.get(name, [])
            several = part.most is None
            if name in value and several != isinstance(found, list):
                yield f"{where}.{name}: an element that repeats is an array, and no other is"
                continue
            items = found if several else [found] if name in value else []
            if len(items) < part.least:
                yield f"{where}.{name}: {len(items)} of at least {part.least}"
            if name in value and not items:
                yield f"{where}.{name}: an empty array"
            for number, item in enumerate(items):
                yield from part.check(
                    item, f"{where}.{name}[{number}]" if several else f"{where}.{name}"
                )
        if rule is not None:
            yield from rule(value, where)

    return check


def one(check: Any) -> Field:
    """1..1."""
    return Field(1, 1, check)


def maybe(check: Any) -> Field:
    """0..1."""
    return Field(0, 1, check)


def many(check: Any, least: int = 0) -> Field:
    """``least``..*."""
    return Field(least, None, check)


def coding(systems: Mapping[str, set[str]] | None = None) -> Any:
    """A Coding; its code one of its system's where we know the whole system."""

    def rule(value: Mapping[str, Any], where: str) -> Iterator[str]:
        known = (systems or {}).get(str(value.get("system")))
        if systems is not None and known is None:
            yield f"{where}: a code of another system"
        elif known is not None and value.get("code") not in known:
            yield f"{where}: {value.get('code')} is no code of its system"

    return shaped(
        {"system": maybe(text(URI)), "version": maybe(text()), "code": maybe(text(re.compile(r"\S+( \S+)*"))),
         "display": maybe(text()), "userSelected": maybe(boolean)},
        rule,
    )  # fmt: skip


DCM = "http://dicom.nema.org/resources/ontology/DCM"
EVENT = coding(
    {DCM: DCM_EVENTS, "http://terminology.hl7.org/CodeSystem/audit-event-type": {"rest"}}
)
SUBTYPE = coding({DCM: DCM_TYPES})
AGENT_ROLE = coding({DCM: DCM_ROLES})
CONCEPT = shaped({"coding": many(AGENT_ROLE), "text": maybe(text())})
IDENTIFIER = shaped(
    {"use": maybe(text(codes={"usual", "official", "temp", "secondary", "old"})), "type": maybe(CONCEPT),
     "system": maybe(text(URI)), "value": maybe(text())}
)  # fmt: skip
REFERENCE = shaped(
    {
        "reference": maybe(text()),
        "type": maybe(text(URI)),
        "identifier": maybe(IDENTIFIER),
        "display": maybe(text()),
    }
)
AGENT = shaped(
    {"type": maybe(CONCEPT), "role": many(CONCEPT), "who": maybe(REFERENCE), "altId": maybe(text()),
     "name": maybe(text()), "requestor": one(boolean), "policy": many(text(URI))}
)  # fmt: skip
SOURCE_TYPE = coding(
    {"http://terminology.hl7.org/CodeSystem/security-source-type": set("123456789")}
)
SOURCE = shaped({"site": maybe(text()), "observer": one(REFERENCE), "type": many(SOURCE_TYPE)})
DETAIL = shaped({"type": one(text()), "valueString": one(text())})
ENTITY_TYPE = coding({"http://terminology.hl7.org/CodeSystem/audit-entity-type": set("1234")})
OBJECT_ROLES = {str(code) for code in range(1, 25)}
ENTITY_ROLE = coding({"http://terminology.hl7.org/CodeSystem/object-role": OBJECT_ROLES})


def sev_1(value: Mapping[str, Any], where: str) -> Iterator[str]:
    """Invariant sev-1: a name or a query, not both."""
    if "name" in value and "query" in value:
        yield f"{where}: has a name and a query"


ENTITY = shaped(
    {"what": maybe(REFERENCE), "type": maybe(ENTITY_TYPE), "role": maybe(ENTITY_ROLE), "name": maybe(text()),
     "description": maybe(text()), "detail": many(DETAIL)},
    sev_1,
)  # fmt: skip
AUDIT_EVENT = shaped(
    {"resourceType": one(text(codes={"AuditEvent"})), "id": maybe(text(ID)), "type": one(EVENT),
     "subtype": many(SUBTYPE), "action": maybe(text(codes=set("CRUDE"))), "recorded": one(text(INSTANT)),
     "outcome": maybe(text(codes={"0", "4", "8", "12"})), "outcomeDesc": maybe(text()),
     "agent": many(AGENT, 1), "source": one(SOURCE), "entity": many(ENTITY)}
)  # fmt: skip


def fhir_problems(bundle: Any) -> list[str]:
    """What is wrong with a collection of AuditEvents."""
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "collection":
        return ["not a collection"]
    problems = []
    urls = [entry.get("fullUrl") for entry in bundle["entry"]]
    if len(set(urls)) != len(urls):  # invariant bdl-7
        problems.append("a fullUrl occurs twice")
    for number, entry in enumerate(bundle["entry"]):
        problems += AUDIT_EVENT(entry.get("resource"), f"entry[{number}]")
    return problems


@dataclass(frozen=True)
class Rule:
    """One element of an audit message: attributes (name -> pattern, required) and children in order."""

    attributes: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    children: tuple[tuple[str, int, int | None], ...] = ()
    text: bool = False


TOKEN = r"\S+( \S+)*"
CODED = Rule(
    {"csd-code": (TOKEN, True), "codeSystemName": (TOKEN, True), "displayName": (TOKEN, False),
     "originalText": (TOKEN, True)}
)  # fmt: skip
RULES: Mapping[str, Rule] = {
    "AuditMessage": Rule(
        children=(
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, None),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, None),
        )
    ),
    "EventIdentification": Rule(
        {"EventActionCode": ("[CRUDE]", False), "EventDateTime": (INSTANT.pattern, True),
         "EventOutcomeIndicator": ("0|4|8|12", True)},
        (("EventID", 1, 1), ("EventTypeCode", 0, None), ("EventOutcomeDescription", 0, 1)),
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "EventOutcomeDescription": Rule(text=True),
    "ActiveParticipant": Rule(
        {"UserID": (r".+", True), "AlternativeUserID": (r".+", False), "UserName": (r".+", False),
         "UserIsRequestor": ("true|false", True), "NetworkAccessPointID": (TOKEN, False),
         "NetworkAccessPointTypeCode": ("[1-5]", False)},
        (("RoleIDCode", 0, None), ("MediaIdentifier", 0, 1)),
    ),
    "RoleIDCode": CODED,
    "AuditSourceIdentification": Rule(
        {"AuditEnterpriseSiteID": (TOKEN, False), "AuditSourceID": (TOKEN, True)},
        (("AuditSourceTypeCode", 0, None),),
    ),
    "AuditSourceTypeCode": Rule({"csd-code": ("[1-9]", True)}),
    "ParticipantObjectIdentification": Rule(
        {"ParticipantObjectID": (r".+", True), "ParticipantObjectTypeCode": ("[1-4]", False),
         "ParticipantObjectTypeCodeRole": ("[1-9]|1[0-9]|2[0-6]", False),
         "ParticipantObjectDataLifeCycle": ("[1-9]|1[0-5]", False),
         "ParticipantObjectSensitivity": (TOKEN, False)},
        (("ParticipantObjectIDTypeCode", 1, 1), ("ParticipantObjectName", 0, 1),
         ("ParticipantObjectDetail", 0, None)),
    ),
    "ParticipantObjectIDTypeCode": CODED,
    "ParticipantObjectName": Rule(text=True),
    "ParticipantObjectDetail": Rule({"type": (TOKEN, True), "value": (r"[A-Za-z0-9+/=]+", True)}),
}  # fmt: skip
CODES = {"EventID": DCM_EVENTS, "EventTypeCode": DCM_TYPES, "RoleIDCode": DCM_ROLES}


def dicom_problems(document: str) -> list[str]:
    """What is wrong with one audit message."""
    root = fromstring(document)  # noqa: S314  # of our own making
    if root.tag != "AuditMessage":
        return ["not an AuditMessage"]
    return list(_element(root, root.tag))


def _element(element: Element, where: str) -> Iterator[str]:
    rule = RULES[element.tag]
    for name, value in element.attrib.items():
        if name not in rule.attributes:
            yield f"{where}: there is no attribute {name}"
        elif not re.fullmatch(rule.attributes[name][0], value, re.DOTALL):
            yield f"{where}: {name} is not of its type"
    for name, (_, required) in rule.attributes.items():
        if required and name not in element.attrib:
            yield f"{where}: lacks {name}"
    if not rule.text and (element.text or "").strip():
        yield f"{where}: holds text"
    known = CODES.get(element.tag)
    if known and (element.get("codeSystemName") != "DCM" or element.get("csd-code") not in known):
        yield f"{where}: a code that is not in its context group"
    if element.tag == "ParticipantObjectDetail":
        try:
            base64.b64decode(element.get("value", ""), validate=True)
        except binascii.Error:
            yield f"{where}: its value is not base64"
    yield from _children(element, rule, where)


def _children(element: Element, rule: Rule, where: str) -> Iterator[str]:
    names = [child.tag for child in element]
    order = [name for name, _, _ in rule.children]
    if any(name not in order for name in names):
        yield f"{where}: holds an element that it must not"
        return
    if names != sorted(names, key=order.index):
        yield f"{where}: its elements are out of order"
    for name, least, most in rule.children:
        count = names.count(name)
        if count < least or (most is not None and count > most):
            yield f"{where}: {count} of {name}"
    for child in element:
        yield from _element(child, f"{where}/{child.tag}")
