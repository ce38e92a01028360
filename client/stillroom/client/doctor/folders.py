"""Folders and disks: whether they are there, who may write in them, and whether they are large enough."""

import contextlib
import os
import secrets
import shutil
import stat
from pathlib import Path

from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check, Finding, failed, ok, warning
from stillroom.common.study import PreparedStudy

MIB, GIB = 1 << 20, 1 << 30
TIMES_EXCHANGED, TIMES_KEPT = 9, 4
"""Of a stage's network: while a round is exchanged, and where the optimiser is kept; the same figures
as in docs/hospital-it/index.md."""
SPARE = 64 * MIB
"""For logs, ledger and the file system itself."""


def state(exam: Examination) -> Finding:
    """The runner's."""
    return _work_folder(exam.config.state, "state", private=True)


def exchange(exam: Examination) -> Finding:
    """Both processes'."""
    return _work_folder(exam.config.exchange, "exchange", private=False)


def courier_state(exam: Examination) -> Finding:
    """The courier's."""
    return _work_folder(exam.config.courier_state, "courier_state", private=True)


def disk_of_exchange(exam: Examination) -> Finding:
    """Room for models, updates and what leaves."""
    need = TIMES_EXCHANGED * sum(_training_sizes(exam.prepared)) + SPARE
    folders = (exam.config.exchange, exam.config.courier_state)
    held = sum(map(_size, folders))
    free = min(shutil.disk_usage(_existing(folder)).free for folder in folders)
    return room(free + held, need)


def disk_of_state(exam: Examination) -> Finding:
    """Room for working copies, predictions and what stages remember."""
    prepared, config = exam.prepared, exam.config
    kept = [s.name for s in prepared.study.stage if s.exchanges and s.train.keep_optimiser]
    need = TIMES_KEPT * sum(prepared.stages[n].manifest.nbytes for n in kept) + SPARE
    free = shutil.disk_usage(_existing(config.state)).free
    return room(free + _size(config.state), need, more=" besides the working copies")


def room(have: int, need: int, more: str = "") -> Finding:
    """What free bytes, together with those that are in use already, mean. Pure."""
    told = f"{_amount(have)} for {_amount(need)}"
    if have < need:
        return failed(
            f"{_amount(have)} there, and the study needs {_amount(need)}{more}.",
            "Free the disk, or move the folder to a larger one in site.toml.",
            "STR-503",
            told=told,
        )
    if have < 2 * need:
        return warning(
            f"{_amount(have)} there; the study needs {_amount(need)}{more}.",
            "Keep an eye on it.",
            told=told,
        )
    return ok(f"{_amount(have)} there for {_amount(need)}{more}.", told=told)


def _work_folder(folder: Path, key: str, *, private: bool) -> Finding:
    if not folder.exists():
        above = _existing(folder)
        if os.access(above, os.W_OK):
            return ok("It will be made on the first start.", told="not there yet")
        return failed(
            f"The folder `{key}` is not there and cannot be made: {above} is closed to this account.",
            "Make it, and give it to the account that runs this.",
            "STR-110",
            told="not there, cannot be made",
        )
    probe = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        with probe.open("xb") as stream:
            stream.write(b"\0" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return _cannot_write(key, error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if private and mode & 0o007:
        return warning(
            f"The folder `{key}` is open to every account (mode {mode:04o}).",
            f"Run `chmod 700 {folder}`.",
            told=f"writable, mode {mode:04o}",
        )
    return ok(f"{folder} can be written.", told="writable")


def _cannot_write(key: str, error: OSError) -> Finding:
    why = error.strerror or type(error).__name__
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return failed(
            f"The disk of `{key}` is full.",
            "Free it, or move the folder to a larger one in site.toml.",
            "STR-503",
            told="disk full",
        )
    return failed(
        f"Nothing can be written in the folder `{key}`: {why}.",
        "Mount it read-write and give it to the account that runs this.",
        "STR-110",
        told=why,
    )


def _training_sizes(prepared: PreparedStudy) -> list[int]:
    return [stage.manifest.nbytes for stage in prepared.stages.values()]


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(where, name)).st_size
            except OSError:
                continue
    return total


def _amount(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{max(1, count // MIB)} MiB"


CHECKS: tuple[Check[Examination], ...] = (
    Check("exchange folder", exchange, ("site.toml",)),
    Check("courier folder", courier_state, ("site.toml",), part="courier"),
    Check("state folder", state, ("site.toml",), part="runner"),
)
DISKS: tuple[Check[Examination], ...] = (
    Check("exchange disk", disk_of_exchange, ("study",), part="courier"),
    Check("state disk", disk_of_state, ("study",), part="runner"),
)
