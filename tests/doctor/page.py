"""The tables of the doctor matrices, as docs/reference/doctor.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillroom.client.doctor.checks import CHECKS
from stillroom.server.doctor.checks import CHECKS as SERVER_CHECKS

SERVER = "\n## The server's doctor\n"
HEAD = """\
# The doctor, tried

`make doctor` injects every fault below in turn, for real where that can be done: in a network and mount
namespace of its own, with the real server, nftables, tinyproxy, a gateway that opens TLS, small and
read-only disks. Then the checks of `stillroom-client doctor` are made, {checks} of them. A fault counts as
named when the check in the table reports it with that code and the words that tell what to do, and no
other check fails without reason. The [server's doctor](#the-servers-doctor) follows.
"""
SERVER_HEAD = """
The same for `stillroom-server doctor` with its {checks} checks, as a command, once with `--json` and once
without: on a copy of a server's folder, with `serve` and `execute` up where the fault is about them. A
fault counts as named when its check is the first that fails, or warns where the table says so, with that
code and the words that tell what to do; no other check complains without reason; both commands end with
the same exit status.
"""


def client_section(rows: Sequence[Any], alarms: Sequence[str], command: str) -> str:
    """Of a site's doctor; ``rows`` are ``faults.Row``."""
    lines = [
        HEAD.format(checks=len(CHECKS)),
        f"{_count(rows)} Without a fault, {len(alarms)} checks failed.",
        f"The command itself, with `faketime` one hour ahead: {command}",
    ]
    return "\n".join([*lines, *_table(rows)])


def server_section(rows: Sequence[Any], alarms: Sequence[str]) -> str:
    """Of the server's; ``rows`` likewise."""
    lines = [
        SERVER + SERVER_HEAD.format(checks=len(SERVER_CHECKS)),
        (
            f"{_count(rows)} Without a fault, at rest and with a run that goes on, {len(alarms)} "
            "checks complained."
        ),
    ]
    return "\n".join([*lines, *_table(rows)])


def write_page(path: Path, sections: Mapping[str, str]) -> None:
    """Write it; a section that was not tried stays as it is in the page."""
    client, _, server = (path.read_text("utf-8") if path.exists() else "").partition(SERVER)
    before = {"client": client, "server": SERVER + server if server else ""}
    made = {**before, **sections}
    path.write_text(made["client"].rstrip("\n") + "\n" + made["server"], "utf-8")


def _count(rows: Sequence[Any]) -> str:
    return f"**{sum(row.named for row in rows)} of {len(rows)} faults named.**"


def _table(rows: Sequence[Any]) -> list[str]:
    lines = ["", "| fault | how | named by | code | what it saw |", "|---|---|---|---|---|"]
    for row in rows:
        fault = row.fault
        said = row.said if row.named else f"**missed**: {row.wrong}"
        check = fault.check if fault.outcome == "failed" else f"{fault.check} ({fault.outcome})"
        cells = (fault.name, fault.how, check, _code(fault.code), _plain(said))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _code(code: str) -> str:
    return f"`{code}`" if code else ""


def _plain(text: str) -> str:
    """Without this run's own folder, and without what Markdown would take for itself."""
    words = ["FOLDER" if word.startswith("/") else word for word in text.split()]
    return " ".join(words).replace("|", "/").replace("<", "(").replace(">", ")")
