"""Exports in the audit formats of hospitals, validated; ``schemas.py`` says against what."""

import base64
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import schemas
from generation import World
from kinds import every_entry
from lxml import etree
from typer.testing import CliRunner

from stillroom.common import log_entries as said
from stillroom.server.audit import export_dicom, export_fhir
from stillroom.server.audit.cli import app
from stillroom.server.audit.events import plain

SHORT = 120
"""Entries of the world that are enough here; ``make proof`` takes all of them."""


def fhir(entries: list[said.Entry]) -> Any:
    return json.loads("".join(export_fhir.bundle_text(enumerate(entries), "example/log")))


def dicom(entries: list[said.Entry]) -> list[str]:
    return list(export_dicom.message_lines(enumerate(entries), "example/log"))


@pytest.fixture(scope="module")
def entries(world: World) -> list[said.Entry]:
    """A log's beginning, and an entry of every kind."""
    return [*map(said.parse_entry, world.entries[:SHORT]), *every_entry()]


def test_every_kind_is_tried() -> None:
    """A kind that is added to the log is added here."""
    union = get_args(said.AnyEntry)[0]
    assert {type(entry) for entry in every_entry()} == set(get_args(union))


def test_fhir(entries: list[said.Entry]) -> None:
    """Every event is an AuditEvent by HL7's schema, another implementation's models, and R4's words."""
    bundle = fhir(entries)
    assert schemas.fhir_problems(bundle) == []
    assert len(bundle["entry"]) == len(entries)


@pytest.mark.parametrize(
    "fault",
    [
        {"outcome": "1"},
        {"action": "X"},
        {"colour": "red"},
        {"recorded": None},
        {"recorded": "2026"},
        {"agent": []},
        {"agent": [{"who": {"display": "a"}, "requestor": True}] * 2},
        {"source": {}},
        {"entity": [{"name": "a", "query": "YQ=="}]},
        {"entity": [{"what": {"identifier": {"value": "urn:sha256:00"}}}]},
        {"type": {"system": schemas.DCM, "code": "110999"}},
        {"outcomeDesc": "\x01"},
        {"subtype": [{"system": "http://elsewhere.example", "code": "x"}]},
    ],
    ids=str,
)
def test_fhir_check_finds_faults(fault: dict[str, Any]) -> None:
    """The check is no rubber stamp."""
    bundle = fhir(every_entry()[:1])
    resource = bundle["entry"][0]["resource"] | fault
    bundle["entry"][0]["resource"] = {k: v for k, v in resource.items() if v is not None}
    assert schemas.fhir_problems(bundle)


def test_dicom(entries: list[said.Entry]) -> None:
    """Every line is an audit message by the grammar, the conventions and the templates of PS3.15 A.5."""
    lines = dicom(entries)
    assert len(lines) == len(entries)
    assert [problem for line in lines for problem in schemas.dicom_problems(line)] == []


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        (' EventOutcomeIndicator="', ' EventOutcome="'),
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ("ActiveParticipant", "ParticipantObjectName"),
        ('.250Z"', '.250"'),
        ('UserIsRequestor="false"', 'UserIsRequestor="true"'),
        ('EventActionCode="E"', 'EventActionCode="U"'),
        ('csd-code="110113"', 'csd-code="110106"'),
        ('csd-code="110113"', 'csd-code="110100"'),
        ('csd-code="110137"', 'csd-code="110999"'),
        ('type="Alert Description"', 'type="Description"'),
        ('codeSystemName="DCM"', 'codeSystemName="XYZ"'),
        ('csd-code="12"', 'csd-code="11"'),
        ('ParticipantObjectTypeCodeRole="20"', 'ParticipantObjectTypeCodeRole="27"'),
        ("<AuditSourceIdentification ", "<EventID /><AuditSourceIdentification "),
    ],
)
def test_dicom_check_finds_faults(what: str, instead: str) -> None:
    """Nor is this one."""
    line = dicom([entry for entry in every_entry() if isinstance(entry, said.Consent)])[0]
    assert what in line
    assert schemas.dicom_problems(line) == []
    assert schemas.dicom_problems(line.replace(what, instead))


def test_nothing_is_lost() -> None:
    """Both hold every fact of the entry; FHIR has no place for control characters, DICOM keeps them."""
    for entry in every_entry():
        facts = {
            key: value
            for key, value in entry.model_dump(mode="json").items()
            if value not in (None, "", [], {}) and key != "time"
        }
        resource = fhir([entry])["entry"][0]["resource"]
        details = {one["type"]: one["valueString"] for one in resource["entity"][-1]["detail"]}
        root = etree.fromstring(dicom([entry])[0].encode())
        itself = root.findall("ParticipantObjectIdentification")[-1]
        encoded = {
            one.get("type"): one.get("value") for one in itself.iter("ParticipantObjectDetail")
        }
        encoded.pop("Alert Description", None)
        for key, fact in facts.items():
            text = (
                fact
                if isinstance(fact, str)
                else json.dumps(fact, sort_keys=True, ensure_ascii=False)
            )
            assert details.pop(key) == plain(text)
            assert base64.b64decode(encoded.pop(key)).decode() == text
        assert not details | encoded


def test_commands_write_files(world: World, tmp_path: Path) -> None:
    """One resource and one line for every entry of a log."""
    for kind in ("fhir", "dicom"):
        out = tmp_path / kind
        done = CliRunner().invoke(
            app, ["export", str(world.log), "--format", kind, "--out", str(out)]
        )
        assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "fhir").read_text("utf-8"))["entry"]) == len(world.entries)
    assert len((tmp_path / "dicom").read_text("utf-8").splitlines()) == len(world.entries)
