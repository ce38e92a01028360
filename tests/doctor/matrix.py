"""The doctor matrices: every fault of a site and of a server in turn, and whether its doctor names it.

``python -P tests/doctor/matrix.py`` (``make doctor``) writes docs/reference/doctor.md and ends with
``doctor: K/N faults named``, of both together. Needs root for namespaces, and nft, tinyproxy, faketime,
setpriv and Orthanc.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from faults import FAULTS, Fault, Row
from page import client_section, server_section, write_page
from place import HOST, Place, enter, names
from server_matrix import try_server

from stillroom.client.doctor.checks import CHECKS
from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Result, examine

TABLES = ("network_faults", "paper_faults", "house_faults", "pacs_faults")
NEEDED = ("ip", "nft", "unshare", "mount", "tinyproxy", "faketime", "setpriv", "Orthanc")


def judge(fault: Fault[Examination], results: Sequence[Result]) -> tuple[bool, str, str]:
    """Whether a fault was named; what was said; what was wrong with it. Pure."""
    by_name = {r.name: r.finding for r in results}
    found = by_name[fault.check]
    said = f"{found.saw} {found.do}"
    failed = [r.name for r in results if r.finding.outcome == "failed"]
    crashed = [r.name for r in results if r.finding.code == "STR-505"]
    expected = {fault.check, *fault.also} if fault.outcome == "failed" else set(fault.also)
    wrong = sorted(set(failed) - expected)
    first = failed[0] if failed else fault.check
    problems = [
        *(f"{name} crashed" for name in crashed),
        *(f"{name} failed without reason" for name in wrong),
    ]
    if found.outcome != fault.outcome or found.code != fault.code:
        problems.append(f"{fault.check}: {found.outcome} {found.code}: {found.saw}")
    if fault.outcome == "failed" and first not in expected:
        problems.append(f"begins with {first}")
    problems += [f"does not say {w!r}" for w in fault.words if w.lower() not in said.lower()]
    return not problems, found.saw, "; ".join(problems)


def try_fault(place: Place, fault: Fault[Examination]) -> Row[Examination]:
    """Inject one, ask the doctor, take it away."""
    screen = io.StringIO()
    try:
        with place.hospital() as config, fault.inject(place, config) as exam:
            began = time.monotonic()
            with contextlib.redirect_stderr(screen):
                results = examine(CHECKS, exam)
            took = time.monotonic() - began
    except Exception as error:  # noqa: BLE001  # whatever it is, the other faults are worth trying
        return Row(fault, False, "", f"not injected: {type(error).__name__}: {error}", 0.0)
    named, said, wrong = judge(fault, results)
    if "Traceback" in screen.getvalue():
        named, wrong = False, f"{wrong}; a traceback"
    return Row(fault, named, said, wrong, took)


def healthy(place: Place) -> list[str]:
    """What the doctor finds wrong where nothing is: the names of checks."""
    with place.hospital() as config, place.serving():
        results = examine(CHECKS, Examination(config))
    return [f"{r.name}: {r.finding.saw}" for r in results if r.finding.outcome == "failed"]


def by_command(place: Place) -> str:
    """The command itself, an hour ahead by ``faketime``: its exit status and last line."""
    with place.hospital() as config, place.serving():
        command = ["-m", "stillroom.client.cli", "doctor", "--config", str(config)]
        done = subprocess.run(
            ["faketime", "-f", "+1h", sys.executable, "-P", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    if "Traceback" in done.stdout + done.stderr:
        return "a traceback"
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    return f"exit status {done.returncode}, {last}"


def try_client(place: Place, only: str) -> tuple[list[Row[Examination]], list[str], str]:
    """All faults of a site, or those whose name has ``only`` in it; false alarms; the command."""
    for table in TABLES:
        __import__(table)
    alarms = [] if only else healthy(place)
    rows = FAULTS.tried(only, lambda one: try_fault(place, one), say)
    return rows, alarms, "" if only else by_command(place)


def say(line: str) -> None:
    """Show it now: whoever waits wants to see it go on."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Try them all, or those whose name has ``--only`` in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--side", choices=("client", "server", "both"), default="both")
    parser.add_argument("--page", type=Path, help="Where the page goes; not with --only.")
    arguments = parser.parse_args()
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    if absent or os.geteuid() != 0:
        say(f"doctor: needs root and {', '.join(absent) or 'nothing more'}")
        return 1
    enter()
    only, sections, named, tried, alarms = arguments.only, {}, 0, 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        place = Place(Path(scratch) / "consortium")
        hosts = names({"localhost": "127.0.0.1", HOST: "127.0.0.1"})
        with hosts, contextlib.closing(place):
            place.found()
            if arguments.side != "client":
                server, wrong = try_server(place, only, say)
                sections["server"] = server_section(server, wrong)
                named, tried, alarms = sum(r.named for r in server), len(server), wrong
            if arguments.side != "server":
                rows, wrong, command = try_client(place, only)
                sections["client"] = client_section(rows, wrong, command)
                named, tried = named + sum(r.named for r in rows), tried + len(rows)
                alarms = [*alarms, *wrong, *([command] if "traceback" in command else [])]
                if command:
                    say(f"faketime +1h: {command}")
    for alarm in alarms:
        say(f"FALSE ALARM {alarm}")
    if not only and arguments.page is not None:
        write_page(arguments.page, sections)
    say(f"doctor: {named}/{tried} faults named")
    return 0 if named >= 0.95 * tried and not alarms else 1


if __name__ == "__main__":
    sys.exit(main())
