"""Adds the base's Debian packages to a CycloneDX list of Python distributions, and checks the whole.

``sbom.py PYTHON.json STATUS OUT.json``, with STATUS a dpkg database. Runs where the image is built;
whoever scans the image finds ``/usr/share/stillroom/sbom.cdx.json`` in it.
"""

import json
import sys
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def debian_packages(status: str) -> list[dict[str, Any]]:
    """A component for every installed package of a dpkg database."""
    found = []
    for paragraph in status.split("\n\n"):
        said = HeaderParser().parsestr(paragraph)
        name, version = said.get("Package"), said.get("Version")
        if name is None or version is None or "installed" not in said.get("Status", "").split():
            continue
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={said.get('Architecture')}"
        part = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
        found.append(part)
    return found


def main() -> None:
    """Merge, check against CycloneDX's own schema, write."""
    document = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    document["components"] += debian_packages(Path(sys.argv[2]).read_text("utf-8"))
    text = json.dumps(document, indent=1)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        sys.exit(f"the SBOM is not CycloneDX 1.6: {wrong}")
    Path(sys.argv[3]).write_text(text, "utf-8")


main()
