"""The file of a registry: its tables, and transactions that are durable when they return.

The edge opens the file read-only and learns of a change from SQLite's data version, so a revocation
acts on the next request.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from stillroom.common.errors import ConfigError
from stillroom.common.log_entries import Entry

BUSY_S = 10.0
Note = Callable[[Entry], object]
"""Writes an entry into the consortium's log."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS sites (
    name TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('invited', 'requested', 'enrolled', 'revoked')),
    token_sha256 TEXT UNIQUE,
    token_expires REAL,
    request_pem TEXT,
    request_fingerprint TEXT,
    spki_sha256 TEXT UNIQUE,
    signing_key TEXT UNIQUE,
    certificate_pem TEXT,
    certificate_sha256 TEXT,
    not_after REAL,
    renew_now INTEGER NOT NULL DEFAULT 0,
    changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS operators (
    key_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    public_key TEXT NOT NULL,
    added_at REAL NOT NULL,
    removed_at REAL
) STRICT;
CREATE TABLE IF NOT EXISTS consents (
    id INTEGER PRIMARY KEY,
    site TEXT NOT NULL,
    study TEXT NOT NULL,
    record BLOB NOT NULL,
    signed_at INTEGER NOT NULL,
    received_at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS consents_of ON consents (site, study, id);
"""


class RegistryFile:
    """The file, opened. One object per thread."""

    def __init__(self, path: Path, *, read_only: bool = False, note: Note | None = None) -> None:
        """Open ``path``.

        Args:
            path: Its file.
            read_only: Nothing is changed through this object.
            note: Told what is about to be true, within the transaction that makes it so: what it
                wrote down is durable before anybody can see the effect, and where it fails there
                is none.

        Raises:
            ConfigError: STR-101, it does not exist or is no registry. A missing registry is never
                made up here: an empty one would look like "nobody is enrolled".
        """
        self._note = note
        mode = "ro" if read_only else "rw"
        try:
            self._db = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
            )
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("SELECT 1 FROM sites LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be opened as a registry.",
                fix="Check `registry` in server.toml and the file's owner; "
                "`stillroom-server init` makes one.",
                code="STR-101",
            ) from error

    @classmethod
    def create(cls, path: Path) -> Self:
        """A registry in ``path``, mode 0600; one that is there is opened as it is."""
        path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode=WAL")
            made.executescript(SCHEMA)
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: everything or nothing, durable afterwards."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def say(self, make: Callable[[], Entry]) -> None:
        """Have the log say what is about to be true; call it within the transaction."""
        if self._note is not None:
            self._note(make())

    def query(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Rows of a question; ``sql`` is a constant of the caller's, never a peer's text."""
        return self._db.execute(sql, values).fetchall()

    def version(self) -> int:
        """A number that changes when another connection has committed something."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])
