"""Every call to the operating system that a commit makes, failing in turn; and SIGKILL between any two.

After each, the log is opened again: it must verify, hold all of the append or none of it, hold it
if the append said so, and take the next one.
"""

import os
import signal
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.errors import StillroomError
from stillroom.server import log as log_module
from stillroom.server.audit import log_checks
from stillroom.server.audit.case import Told
from stillroom.server.audit.history import History
from stillroom.server.audit.published import FolderFiles, read_log
from stillroom.server.log import Log

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CALLS = ("open", "write", "fsync", "replace", "close", "mkdir")
OLD, NEW = 250, 260
"""Entries before and after: the append fills a tile, so that a level is added."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        way: ``lost``: the call failed and did nothing; ``done``: it failed and was done all the same;
            ``killed``: the process died before it.
        number: Which of the commit's calls, from 1.
        survived: Whether the log was then as it must be.
        committed: Whether the append is in it.
    """

    way: str
    number: int
    survived: bool
    committed: bool


def entries(start: int, end: int) -> list[bytes]:
    """Some entries."""
    return [b'{"entry":%d}' % number for number in range(start, end)]


def read_whole(log: Log) -> list[bytes] | None:
    """Its entries, if the log verifies: every tile, every bundle, the root, the signature."""
    contents = read_log(FolderFiles(log.folder), log.verifier)
    told = Told(contents=contents, history=History())
    checks = (log_checks.bundles, log_checks.tiles, log_checks.root, log_checks.leftovers)
    problems = [p for check in checks for p in check(told) if p.result == "FAILED"]
    return None if contents.head_problem or problems else contents.raw


def run_faults(folder: Path) -> list[Fault]:
    """The whole matrix."""
    rehearsal = _log(folder / "rehearsal")
    counting = _faulty(10**9, before=True, act=_fail)
    _append_with(rehearsal, counting)
    count = 10**9 - int(counting.left[0])
    found = []
    for number in range(1, count + 1):
        for way in ("lost", "done", "killed"):
            found.append(_try(_log(folder / f"{way}-{number}"), way, number))
    return found


def _log(folder: Path) -> Log:
    log = Log(folder / "log", folder / "guard", "o", KEY)
    log.append(entries(0, OLD))
    return log


def _try(log: Log, way: str, number: int) -> Fault:
    acknowledged = _killed(log, number) if way == "killed" else _failed(log, way, number)
    try:
        log.head()
        found = read_whole(log)
        good = found in (entries(0, OLD), entries(0, NEW))
        committed = found == entries(0, NEW)
        log.append([b"after"])
        good = good and read_whole(log) == [*(found or ()), b"after"]
    except StillroomError:
        return Fault(way, number, survived=False, committed=False)
    return Fault(way, number, good and (committed or not acknowledged), committed)


def _failed(log: Log, way: str, number: int) -> bool:
    """Append while a call fails; whether the append said that it was done."""
    try:
        _append_with(log, _faulty(number, before=way == "lost", act=_fail))
    except (StillroomError, OSError):
        return False
    return True


def _killed(log: Log, number: int) -> bool:
    child = os.fork()
    if child == 0:
        _append_with(log, _faulty(number, before=True, act=_kill))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def _append_with(log: Log, system: types.SimpleNamespace) -> None:
    real = log_module.os
    log_module.os = system  # type: ignore[assignment]
    try:
        log.append(entries(OLD, NEW))
    finally:
        log_module.os = real


def _faulty(number: int, *, before: bool, act: Callable[[], None]) -> types.SimpleNamespace:
    """``os``, whose call ``number`` of those a commit makes does ``act``, before or after itself."""
    left = [number]

    def wrap(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            # Linux frees a descriptor even when close fails, so that one only fails afterwards.
            if left[0] == 0 and before and name != "close":
                act()
            result = real(*arguments, **options)
            if left[0] == 0 and (name == "close" or not before):
                act()
            return result

        return call

    names = {name: getattr(os, name) for name in dir(os)}
    return types.SimpleNamespace(**{**names, **{name: wrap(name) for name in CALLS}}, left=left)


def _fail() -> None:
    raise OSError(28, "No space left on device")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def table(found: Sequence[Fault]) -> list[str]:
    """Markdown: one row a way."""
    words = {
        "lost": "the call fails and does nothing",
        "done": "the call fails and is done all the same",
        "killed": "SIGKILL before the call",
    }
    lines = [
        "| at every call of a commit | tried | survived | append was in the log |",
        "|---|---|---|---|",
    ]
    for way, text in words.items():
        mine = [fault for fault in found if fault.way == way]
        kept = sum(fault.committed for fault in mine)
        lines.append(f"| {text} | {len(mine)} | {sum(f.survived for f in mine)} | {kept} |")
    return lines
