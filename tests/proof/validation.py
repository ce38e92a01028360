"""Every entry of a log, and one of every kind, in both audit formats of hospitals: validated."""

import json
from importlib.metadata import version
from pathlib import Path

import schemas
import structure
from generation import World
from kinds import every_entry

from stillroom.common.log_entries import parse_entry
from stillroom.server.audit import export_dicom, export_fhir


def rows(world: World, folder: Path) -> tuple[list[str], int, int]:
    """Markdown, how many were valid, of how many."""
    entries = list(enumerate([*map(parse_entry, world.entries), *every_entry()]))
    bundle = "".join(export_fhir.bundle_text(entries, world.origin))
    by_schema = {what.split(".resource")[0] for what in schemas.fhir_problems(json.loads(bundle))}
    by_profile = structure.validate(bundle, folder / "npm")
    messages = list(export_dicom.message_lines(entries, world.origin))
    by_grammar = [message for message in messages if schemas.dicom_problems(message)]
    profile = by_profile.why or f"{by_profile.tried}, {len(by_profile.problems)}"
    of = len(entries)
    models = f"jsonschema {version('jsonschema')}; R4B models of fhir.resources {version('fhir.resources')}"
    rows = {
        f"FHIR | HL7's JSON Schema of R4 (4.0.1), by {models}; what neither knows": f"{of}, {len(by_schema)}",
        f"FHIR | HL7's StructureDefinitions of R4 (4.0.1), by @medplum/core {structure.VERSION}": profile,
        "DICOM | grammar of PS3.15 A.5.1, by libxml2; A.5.2, A.5.3": f"{of}, {len(by_grammar)}",
    }
    lines = ["| format | against | tried, problems |", "|---|---|---|"]
    lines += [f"| {what} | {found} |" for what, found in rows.items()]
    lines += ["", "What these checks are, and are not: [exports](exports.md)."]
    tried = 2 * of + by_profile.tried
    bad = len(by_schema) + len(by_profile.problems) + len(by_grammar)
    return lines, tried - bad, tried
