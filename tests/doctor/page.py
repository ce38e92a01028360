"""The table of the doctor matrix, as docs/reference/doctor.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillroom.client.doctor.checks import CHECKS

HEAD = """\
# The doctor, tried

`make doctor` injects every fault below in turn, for real where that can be done: in a network and mount
namespace of its own, with the real server, nftables, tinyproxy, a gateway that opens TLS, small and
read-only disks. Then the checks of `stillroom-client doctor` are made, {checks} of them. A fault counts as
named when the check in the table reports it with that code and the words that tell what to do, and no
other check fails without reason.
"""


def write_page(path: Path, rows: Sequence[Any], alarms: Sequence[str], command: str) -> None:
    """Write it; ``rows`` are ``matrix.Row``."""
    named = sum(row.named for row in rows)
    lines = [
        HEAD.format(checks=len(CHECKS)),
        f"**{named} of {len(rows)} faults named.** Without a fault, {len(alarms)} checks failed.",
        f"The command itself, with `faketime` one hour ahead: {command}",
        "",
        "| fault | how | named by | code | what it saw |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        fault = row.fault
        said = row.said if row.named else f"**missed**: {row.wrong}"
        cells = (fault.name, fault.how, fault.check, _code(fault.code), _plain(said))
        lines.append(f"| {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _code(code: str) -> str:
    return f"`{code}`" if code else ""


def _plain(text: str) -> str:
    """Without this run's own folder, and without what Markdown would take for itself."""
    words = ["FOLDER" if word.startswith("/") else word for word in text.split()]
    return " ".join(words).replace("|", "/").replace("<", "(").replace(">", ")")
