"""The folder that a site's two processes both see, and all that they see of each other.

``models/`` holds global models, written by the courier and read by the runner; ``updates/`` holds
what the runner learned, which the courier reads; ``consents/`` is written by the command line and
read by both; ``runner.lock`` is held by the runner while it lives; ``paused`` says that work is to
stop (``pausing``). Every file of weights is named by the SHA-256 of its bytes, and neither side
takes the other's word for it.
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Self

from stillroom.common.errors import ContractError, ResourceError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = re.compile(r"[0-9a-f]{32}")
SUFFIX = ".safetensors"
LOCK_WAIT_S = 2.0
"""A courier that looks whether the lock is held holds it itself for an instant."""


@dataclass(frozen=True, slots=True)
class ExchangeFolder:
    """Names of files in it; nothing is opened before it is asked for.

    Attributes:
        folder: ``exchange`` in site.toml.
    """

    folder: Path

    def prepare(self) -> Self:
        """Make the folders that are not there yet."""
        for folder in (self.models, self.updates, self.consents):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    @property
    def models(self) -> Path:
        """Global models, each ``<sha256>.safetensors``."""
        return self.folder / "models"

    @property
    def updates(self) -> Path:
        """What the runner learned, each ``<sha256>.safetensors``: plain, in the manifest's layout."""
        return self.folder / "updates"

    @property
    def consents(self) -> Path:
        """The site's consents."""
        return self.folder / "consents"

    @property
    def lock(self) -> Path:
        """Held by the runner."""
        return self.folder / "runner.lock"

    @property
    def socket(self) -> Path:
        """Where the courier listens for the runner: a file, not a port."""
        return self.folder / "runtime.sock"

    def model(self, sha256: str) -> Path:
        """Path of a global model; ValueError when its name is no SHA-256."""
        return self.models / _named(sha256)

    def update(self, sha256: str) -> Path:
        """Path of an update; ValueError when its name is no SHA-256."""
        return self.updates / _named(sha256)

    def keep_models(self, names: Collection[str]) -> None:
        """Remove every model but ``names``, and what is left of interrupted fetches of others."""
        _keep(self.models, names)

    def keep_updates(self, names: Collection[str]) -> None:
        """Remove every update but ``names``."""
        _keep(self.updates, names)

    def open_update(self, sha256: str) -> FileIO:
        """An update, opened so that its name can lead nowhere else; unbuffered.

        The runner owns the folder and may be anything: a link, a device or a pipe in place of a
        file, and a folder that is a link, are refused. What the file holds may still change while
        it is read: whoever reads it reads every byte once.

        Raises:
            ContractError: STR-311.
        """
        try:
            return _opened(self.updates, _named(sha256))
        except OSError as error:
            raise ContractError(
                "The runner's update is not in the exchange folder as a plain file.",
                fix="Check that courier and runner have the same `exchange` in site.toml.",
                code="STR-311",
            ) from error


class RunnerLock:
    """Says that a runner lives, and which one: a new one has another boot id.

    The operating system lets go of the lock when the process ends, however it ends.
    """

    def __init__(self, exchange: ExchangeFolder) -> None:
        """Take the lock.

        Raises:
            ResourceError: STR-513, another runner has it.
        """
        exchange.prepare()
        self.boot_id = secrets.token_hex(16)
        self._file = os.open(exchange.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take(time.monotonic() + LOCK_WAIT_S)
        except BaseException:
            self.close()
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self.boot_id.encode("ascii"), 0)

    def _take(self, end: float) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise ResourceError(
                        "Another runner works for this site.",
                        fix="Run one runner for a site; stop the other one first.",
                        code="STR-513",
                    ) from error
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def runner_present(exchange: ExchangeFolder) -> str | None:
    """Boot id of the runner that lives now; None when there is none.

    Empty in the instant between a runner's taking the lock and its writing its id.
    """
    try:
        file = os.open(exchange.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        found = os.pread(file, 64, 0).decode("ascii", "replace")
        return found if _BOOT_ID.fullmatch(found) else ""
    else:
        return None
    finally:
        os.close(file)


def _named(sha256: str) -> str:
    if _SHA256.fullmatch(sha256) is None:
        raise ValueError("a file in the exchange folder is named by a SHA-256")
    return sha256 + SUFFIX


def _opened(folder: Path, name: str) -> FileIO:
    """A regular file directly in ``folder``; neither of the two may be a link."""
    where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Without O_NONBLOCK a pipe would keep us waiting for somebody to write.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=where)
    finally:
        os.close(where)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("not a regular file")
    return FileIO(file, "rb")


def _keep(folder: Path, names: Collection[str]) -> None:
    for path in folder.iterdir():
        # `<sha256>.safetensors`, and `<sha256>.safetensors.part` while it is fetched.
        if path.name.split(".", 1)[0] not in names:
            with contextlib.suppress(OSError):
                path.unlink()
