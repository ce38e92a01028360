"""Every fault of a server in turn, and whether ``stillroom-server doctor`` names it."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from faults import Fault, Row
from place import Place
from server_place import (
    SERVER_FAULTS,
    View,
    doctor,
    operator,
    prepare,
    running_run,
    up,
    wait_until,
    want_run,
)

STATUS = {"failed": 2, "warning": 1}
TABLES = ("server_paper_faults", "server_house_faults", "server_live_faults")


def judge(fault: Fault[View], found: dict[str, Any], status: int, screen: str) -> tuple[str, str]:
    """What was said of a fault, and what was wrong with that; empty for nothing. Pure.

    Args:
        fault: What was injected.
        found: The command's JSON.
        status: Its exit status.
        screen: What it shows people.
    """
    checks = {one["name"]: one for one in found["checks"]}
    one = checks[fault.check]
    said = f"{one['saw']} {one['do']}"
    complaints = [c["name"] for c in found["checks"] if c["outcome"] in STATUS]
    failed = [c["name"] for c in found["checks"] if c["outcome"] == "failed"]
    problems = [f"{c['name']} crashed" for c in found["checks"] if c["code"] == "STR-505"]
    expected = {fault.check, *fault.also}
    problems += [f"{name} complains without reason" for name in complaints if name not in expected]
    if (one["outcome"], one["code"]) != (fault.outcome, fault.code):
        problems.append(f"{fault.check}: {one['outcome']} {one['code']}: {one['saw']}")
    if failed and failed[0] != fault.check:
        problems.append(f"begins with {failed[0]}")
    if status != found["exit_status"] or status != STATUS[fault.outcome]:
        problems.append(f"exit status {status}")
    problems += [f"does not say {w!r}" for w in fault.words if w.lower() not in said.lower()]
    for word in (fault.check, fault.code, *fault.words):
        if word.lower() not in " ".join(screen.split()).lower():
            problems.append(f"does not show {word!r}")
    return one["saw"], "; ".join(problems)


def try_fault(place: Place, fault: Fault[View]) -> Row[View]:
    """Inject one, give the command twice, take it away."""
    try:
        with operator(place) as config, fault.inject(place, config) as view:
            began = time.monotonic()
            written = doctor(config, view, as_json=True)
            took = time.monotonic() - began
            shown = doctor(config, view, as_json=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other faults are worth trying
        return Row(fault, False, "", f"not injected: {type(error).__name__}: {error}", 0.0)
    screen = shown.stdout + shown.stderr
    if "Traceback" in written.stdout + written.stderr + screen:
        return Row(fault, False, "", "a traceback", took)
    try:
        found = json.loads(written.stdout)
    except ValueError:
        return Row(fault, False, "", f"no JSON: {written.stderr[-200:]}", took)
    said, wrong = judge(fault, found, written.returncode, screen)
    if shown.returncode != written.returncode:
        wrong = f"{wrong}; another exit status the second time"
    return Row(fault, not wrong, said, wrong, took)


def complaints(place: Place, *, live: bool) -> list[str]:
    """What the doctor says of a server without a fault; ``live``: it is up, and a run goes on."""
    with operator(place) as config:
        if not live:
            return _complaints(doctor(config, View(), as_json=True))
        run = want_run(place, config)
        with up(place, config):
            wait_until(lambda: running_run(run))
            return _complaints(doctor(config, View(), as_json=True))


def _complaints(done: Any) -> list[str]:
    if done.returncode not in {0, 1, 2} or not done.stdout.startswith("{"):
        return [f"exit status {done.returncode}: {done.stderr[-300:]}"]
    checks = json.loads(done.stdout)["checks"]
    return [f"{c['name']}: {c['saw']}" for c in checks if c["outcome"] in STATUS]


def try_server(
    place: Place, only: str, say: Callable[[str], None]
) -> tuple[Sequence[Row[View]], list[str]]:
    """All faults, or those whose name has ``only`` in it; and complaints where nothing is wrong."""
    for table in TABLES:
        __import__(table)
    prepare(place)
    alarms = []
    if not only:
        alarms = [f"{one} (server at rest)" for one in complaints(place, live=False)]
        alarms += [f"{one} (server up)" for one in complaints(place, live=True)]
    return SERVER_FAULTS.tried(only, lambda one: try_fault(place, one), say, "server: "), alarms
