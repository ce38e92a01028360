"""State folder, disk, memory and clock of the server's machine."""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.log_entries import parse_entry
from stillroom.common.memory import MemorySeen, look_at_memory
from stillroom.common.study import PreparedStudy
from stillroom.common.tlog.checkpoint import Checkpoint
from stillroom.common.tlog.folder import CHECKPOINT, LogFolder
from stillroom.common.tlog.note import parse_note
from stillroom.server.doctor.examination import Examination

GIB = 1 << 30
LITTLE, TOO_LITTLE = 5 * GIB, 512 << 20
"""Bytes. A round of the paper's student writes a quarter of a GiB per site."""
BASE, PER_MODEL = 400 << 20, 1.5
"""Bytes, and of the largest update of a run: 650 MiB were measured for one of 249 MB."""
BEHIND_S = 120.0
TIME_ERROR = 5
"""adjtimex(2): the kernel's clock is not synchronised."""


def state(exam: Examination) -> Finding:
    """Whether the server may write where it has to."""
    folder = exam.config.state
    if not folder.exists():
        return ok("It will be made on the first start.", told="not there yet")
    if folder.stat().st_mode & 0o002:
        return failed(
            "Everybody on this machine can write in `state`, and so decide what runs.",
            f"Run `chmod 700 {folder}`, and look at what is in it.",
            "STR-202",
            told="open to others",
        )
    probe = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return failed("The disk of `state` is full.", "Free it.", "STR-503", told="disk full")
        why = error.strerror or type(error).__name__
        return failed(
            f"Nothing can be written in `state`: {why}.",
            "Mount it read-write and give it to the server's account.",
            "STR-110",
            told=why,
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ok(f"{folder} can be written.", told="writable")


def disk(exam: Examination) -> Finding:
    """Room for rounds and the log."""
    folder = exam.config.state
    while not folder.exists():
        folder = folder.parent
    return disk_finding(shutil.disk_usage(folder).free)


def disk_finding(free: int) -> Finding:
    """What free bytes mean. Pure."""
    told = f"{free / GIB:.1f} GiB free"
    if free < TOO_LITTLE:
        return failed(
            f"{told} for `state`.", "Free the disk before a round needs it.", "STR-503", told
        )
    if free < LITTLE:
        return warning(f"{told} for `state`.", "Free the disk.", "STR-503", told)
    return ok(f"{told} for `state`.", told=told)


def memory(exam: Examination) -> Finding:
    """What the server's processes may have, against what the models of its runs need."""
    most = 0
    for run in exam.open_runs:
        with contextlib.suppress(OSError, ValueError):  # "studies" says so
            raw = (run.study / "study.json").read_bytes()
            stages = PreparedStudy.model_validate_json(raw).stages.values()
            most = max([most, *(stage.manifest.nbytes for stage in stages)])
    return memory_finding(look_at_memory(exam.system), BASE + int(PER_MODEL * most))


def memory_finding(seen: MemorySeen, need: int) -> Finding:
    """What it means. Pure."""
    limited = seen.limit is not None
    whose = "This container or unit may use" if limited else "This machine has"
    told = f"{seen.most / GIB:.1f} GiB for {need / GIB:.1f} GiB"
    if seen.most < need:
        return failed(
            f"The server and its runs need {need / GIB:.1f} GiB of memory. {whose} "
            f"{seen.most / GIB:.1f} GiB.",
            "Raise the memory limit of the container or unit."
            if limited and seen.total >= need
            else "Run the server on a machine with more memory.",
            "STR-503",
            told=told,
        )
    return ok(f"{whose} {seen.most / GIB:.1f} GiB of memory.", told=told)


def clock(exam: Examination) -> Finding:
    """Whether this machine's clock is kept, and not behind what the log has seen."""
    written = last_written(exam.config.log)
    if written is not None and exam.now.timestamp() < written - BEHIND_S:
        return behind_finding(written - exam.now.timestamp())
    return clock_finding(kernel_clock())


def last_written(log: Path) -> float | None:
    """Time of the log's last entry, unproven; None where it cannot be read: "log" says so."""
    try:
        size = Checkpoint.parse(parse_note((log / CHECKPOINT).read_bytes()).text).size
        _, raw = next(LogFolder(log, size).entries(size - 1))
        return datetime.fromisoformat(parse_entry(raw).time).timestamp()
    except (OSError, ValueError, StopIteration):
        return None


def behind_finding(seconds: float) -> Finding:
    """The log was written in the future. Pure."""
    far = f"{seconds / 3600:.1f} h" if seconds > 2 * 3600 else f"{seconds / 60:.0f} min"
    return failed(
        f"This machine's clock is at least {far} behind: the log's last entry was written later.",
        "Set it (`timedatectl set-ntp true`): certificates and consents are judged by it.",
        "STR-201",
        told=f"{far} behind the log",
    )


def clock_finding(answer: int | None) -> Finding:
    """What adjtimex(2) answered means. Pure."""
    if answer is None:
        return skipped("the kernel does not tell")
    if answer == TIME_ERROR:
        return warning(
            "Nothing keeps this machine's clock (NTP).",
            "Run `timedatectl set-ntp true`, or an NTP client: sites compare their clocks with it.",
            told="not synchronised",
        )
    return ok("The clock is kept by NTP.", told="synchronised")


def kernel_clock() -> int | None:
    """What adjtimex(2) answers; None where it cannot be asked."""
    try:
        # An empty struct timex asks and sets nothing; it has 208 bytes on 64-bit Linux.
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return int(answer) if answer >= 0 else None


def secret(exam: Examination) -> Finding:
    """What the server and its SuperExec know each other by."""
    path: Path = exam.config.secret_file
    if not path.exists():
        return ok("It will be made on the first start.", told="not there yet")
    if path.stat().st_mode & 0o077 or not os.access(path, os.R_OK):
        return failed(
            "The SuperExec's secret can be read by others, or not by this account.",
            f"Run `chmod 600 {path}`.",
            "STR-202",
            told="open to others",
        )
    return ok("The SuperExec's secret is this account's alone.", told="closed to others")


CLOCK: Check[Examination] = Check("clock", clock, ("server.toml",))
CHECKS: tuple[Check[Examination], ...] = (
    Check("state folder", state, ("server.toml",)),
    Check("disk", disk, ("server.toml",), unless=("state folder",)),
    Check("memory", memory, ("server.toml", "state folder")),
    Check("SuperExec secret", secret, ("server.toml", "state folder")),
)
