"""Which studies run on this server, and what the operator wants of them: ``state/runs.db``.

The table says only what is wanted; ``keeper`` sees to it, and the study's process looks here too.
So `run stop` and `run resume` work from any terminal, whether the server is up or not. Every
change is one transaction, durable when the call returns.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stillroom.common.errors import ConfigError, ResourceError

RUNNING, STOPPED, ENDED = "running", "stopped", "ended"
"""Wanted: that it goes on; that it pauses where it is; that it ends for good."""
BUSY_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    study TEXT NOT NULL,
    folder TEXT NOT NULL UNIQUE,
    wanted TEXT NOT NULL CHECK (wanted IN ('running', 'stopped', 'ended')),
    reason TEXT NOT NULL,
    flower_run INTEGER,
    started_at REAL NOT NULL,
    changed_at REAL NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it is wanted. Times are seconds since the epoch.

    Attributes:
        number: Counts up.
        name: As the operator calls it.
        study: Folder of the prepared study.
        folder: Where the run is recorded.
        wanted: ``running``, ``stopped`` or ``ended``.
        reason: Why it is not wanted to run, in words; empty when the operator said so.
        flower_run: Flower's number of its newest start; None before.
        started_at: When it was first wanted.
        changed_at: When that changed last.
    """

    number: int
    name: str
    study: Path
    folder: Path
    wanted: str
    reason: str
    flower_run: int | None
    started_at: float
    changed_at: float


_COLUMNS = ", ".join(field.name for field in fields(Run))


class Runs:
    """The table in one SQLite file, made when it does not exist. One object per thread.

    Every method raises ResourceError, STR-503, when the disk is full or fails.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open ``path``; with ``read_only`` it must exist, and nothing is changed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            where = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(where, uri=True, timeout=BUSY_S, isolation_level=None)
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be opened as a table of runs.",
                fix="Check `state` in server.toml and the file's owner.",
                code="STR-101",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, study: Path, folder: Path, now: float) -> Run:
        """Want a new run.

        Raises:
            ConfigError: STR-108, there is one of that name or in that folder.
        """
        with contextlib.suppress(sqlite3.IntegrityError):
            self._execute(
                "INSERT INTO runs (name, study, folder, wanted, reason, started_at, changed_at)"
                " VALUES (?, ?, ?, 'running', '', ?, ?)",
                (name, str(study.resolve()), str(folder.resolve()), now, now),
            )
            return self.get(name)
        raise ConfigError(
            "There is a run of that name, or one that is recorded in that folder.",
            fix="See `stillroom-server run list`; choose another name or folder.",
            code="STR-108",
        )

    def all(self) -> tuple[Run, ...]:
        """Every run, oldest first."""
        return self._rows("ORDER BY number")

    def get(self, name: str) -> Run:
        """A run by its name, or by its number in digits.

        Raises:
            ConfigError: STR-108, there is none.
        """
        found = self._rows("WHERE name = ?", name)
        if not found and name.isdecimal():
            found = self._rows("WHERE number = ?", int(name))
        if not found:
            raise ConfigError(
                "There is no run of that name or number.",
                fix="See `stillroom-server run list`.",
                code="STR-108",
            )
        return found[0]

    def want(self, name: str, wanted: str, now: float, *, reason: str = "") -> None:
        """Change what is wanted of a run."""
        self._execute(
            "UPDATE runs SET wanted = ?, reason = ?, changed_at = ? WHERE name = ?",
            (wanted, reason, now, name),
        )

    def give_up(self, name: str, now: float, reason: str) -> None:
        """Stop wanting a run that is still wanted; what an operator said meanwhile stands."""
        self._execute(
            "UPDATE runs SET wanted = 'stopped', reason = ?, changed_at = ?"
            " WHERE name = ? AND wanted = 'running'",
            (reason, now, name),
        )

    def started(self, name: str, flower_run: int) -> None:
        """Keep Flower's number of the newest start."""
        # Unsigned at Flower, signed in SQLite: the same 64 bits.
        signed = flower_run - 2**64 if flower_run >= 2**63 else flower_run
        self._execute("UPDATE runs SET flower_run = ? WHERE name = ?", (signed, name))

    def _execute(self, statement: str, values: Sequence[object]) -> list[Any]:
        """Its rows, all of them."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            # Even reading asks for room: for the index of the write-ahead log.
            raise ResourceError(
                "The table of runs cannot be read or written.",
                fix="Make room on the disk of the server's state folder.",
                code="STR-503",
            ) from error

    def _rows(self, where: str, *values: object) -> tuple[Run, ...]:
        rows = self._execute(f"SELECT {_COLUMNS} FROM runs {where}", values)  # noqa: S608  # constants
        return tuple(
            Run(
                number,
                name,
                Path(study),
                Path(folder),
                wanted,
                reason,
                None if flower_run is None else flower_run % 2**64,
                started_at,
                changed_at,
            )
            for number, name, study, folder, wanted, reason, flower_run, started_at, changed_at in rows
        )
