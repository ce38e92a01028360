"""What a pull has finished, so that the next one goes on there: a line a series, written through.

::

    {"series": "<keyed hash>", "state": "complete", "count": 312, "code": ""}

``state`` is ``complete`` or ``refused``. A series that is in neither is fetched, and what already lies
in ``.incoming`` of it is not fetched again. Nothing in here names a patient: UIDs are keyed hashes.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from stillroom.common.errors import CODES, DataError

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a series.

    Attributes:
        series: Its keyed hash.
        state: ``complete``, or ``refused`` for good.
        count: Instances that lie here; 0 when refused.
        code: Why it was refused.
    """

    series: str
    state: Literal["complete", "refused"]
    count: int = 0
    code: str = ""


class Journal:
    """Appended to and never rewritten; the last line about a series counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._verdicts = {one.series: one for one in _read(path)}

    def verdict(self, series: str) -> Verdict | None:
        """What became of a series; None while it is not finished."""
        return self._verdicts.get(series)

    def add(self, verdict: Verdict) -> None:
        """Write and flush to disk. A kill before: it is fetched again. After: it is not."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, json.dumps(asdict(verdict)).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._verdicts[verdict.series] = verdict


@contextmanager
def opened(state: Path) -> Iterator[tuple[Journal, bytes]]:
    """The journal and the site's key for names, for one process at a time.

    Raises:
        DataError: Another pull works there (STR-454), or its files are damaged (STR-455).
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                "Another `data pull` works in this folder.",
                fix="Wait for it, or end it.",
                code="STR-454",
            ) from None
        yield Journal(state / "journal.jsonl"), _key(state / "key")
    finally:
        os.close(descriptor)


def _key(path: Path) -> bytes:
    """32 random bytes, made on first use: temp, flush, rename, so that no kill leaves half a key."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise _damaged("The key of pulled names does not have 32 bytes.")
    return key


def _read(path: Path) -> Iterator[Verdict]:
    """Whole lines; a torn last one is cut off: its series was not finished."""
    if not path.exists():
        return
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            one = Verdict(**json.loads(line))
        except (ValueError, TypeError):
            raise _damaged(f"Line {number} of the journal is damaged.") from None
        if one.state not in {"complete", "refused"} or (one.code and one.code not in CODES):
            raise _damaged(f"Line {number} of the journal is damaged.")
        yield one


def _damaged(what: str) -> DataError:
    return DataError(
        what,
        fix="Restore pacs.state from a backup, or move it and pacs.folder away to fetch all anew.",
        code="STR-455",
    )
