"""Who may speak to this server: sites, their invitations, and operators. SQLite, one file.

A site's life::

    invited -> requested -> enrolled -> revoked
       ^-----------------------------------'   (only by a new invitation, with new keys)

Every change is one transaction, durable when the call returns (WAL, ``synchronous=FULL``): after a
crash a site is in the state before or after it, never between. The edge opens the file read-only
and learns of a change from SQLite's data version, so a revocation acts on the next request.
"""

import contextlib
import hashlib
import hmac
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.log_entries import UNSTAMPED, Entry, Member
from stillroom.common.pki.names import site_san

INVITED, REQUESTED, ENROLLED, REVOKED = "invited", "requested", "enrolled", "revoked"
INVITATION_HOURS = 72
BUSY_S = 10.0

_SCHEMA = """
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


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """One site as the registry knows it. Times are seconds since the epoch.

    Attributes:
        name: As in its certificate.
        status: invited, requested, enrolled or revoked.
        token_expires: End of its invitation; None once the token is spent.
        request_pem: What it asked to be certified.
        request_fingerprint: What is compared by telephone, 16 hex digits.
        spki_sha256: Of the key it was enrolled with; the same for every certificate it gets.
        signing_key: Ed25519 public key in hex, for consents and cosignatures.
        certificate_pem: The newest certificate.
        certificate_sha256: Its fingerprint.
        not_after: Its end.
        renew_now: 1 when the operator wants a new certificate to be taken at once.
        changed_at: Last change of this row.
    """

    name: str
    status: str
    token_expires: float | None
    request_pem: str | None
    request_fingerprint: str | None
    spki_sha256: str | None
    signing_key: str | None
    certificate_pem: str | None
    certificate_sha256: str | None
    not_after: float | None
    renew_now: int
    changed_at: float


@dataclass(frozen=True, slots=True)
class Request:
    """A site's request, already checked. ``fingerprint`` as ``short_fingerprint`` makes it."""

    pem: str
    spki_sha256: str
    signing_key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued for a site."""

    pem: str
    sha256: str
    not_after: float


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    """An operator whose key may sign studies."""

    key_id: str
    name: str
    public_key: str


Act = Literal["invited", "approved", "renewed", "revoked"]
Note = Callable[[Entry], object]
"""Writes an entry into the consortium's log."""
_NAMES = [field.name for field in fields(SiteRecord)]
_COLUMNS = ", ".join(_NAMES)


class Registry:
    """The registry in one SQLite file. One object per thread."""

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
    def create(cls, path: Path) -> "Registry":
        """A registry in ``path``, mode 0600; one that is there is opened as it is."""
        path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode=WAL")
            made.executescript(_SCHEMA)
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> "Registry":
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

    # -- sites ---------------------------------------------------------------------------------

    def sites(self) -> tuple[SiteRecord, ...]:
        """Every site, by name."""
        return _records(self._db, "ORDER BY name")

    def site(self, name: str) -> SiteRecord:
        """One site.

        Raises:
            ConfigError: STR-108, there is none of that name.
        """
        found = _records(self._db, "WHERE name = ?", (name,))
        if not found:
            raise _state("The registry holds no site of that name.", "See `site list`.")
        return found[0]

    def site_by_signing_key(self, public_key_hex: str) -> SiteRecord | None:
        """The site that enrolled, or asked to, with this signing key."""
        found = _records(self._db, "WHERE signing_key = ?", (public_key_hex,))
        return found[0] if found else None

    def invite(self, name: str, token: str, now: float) -> None:
        """Let ``name`` ask once, with ``token``, within 72 hours. Replaces an open invitation.

        Raises:
            ConfigError: STR-100 not a site's name; STR-108 it is enrolled or awaits approval.
        """
        site_san(name)
        with self.transaction() as db:
            found = _records(db, "WHERE name = ?", (name,))
            if found and found[0].status == ENROLLED:
                raise _state(f"{name} is {found[0].status}.", f"Revoke {name} first.")
            # What an earlier life of this name left is gone: new invitation, new keys.
            db.execute("DELETE FROM sites WHERE name = ?", (name,))
            db.execute(
                "INSERT INTO sites (name, status, token_sha256, token_expires, changed_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (name, INVITED, token_digest(token), now + INVITATION_HOURS * 3600, now),
            )
            if not found or found[0].status == REVOKED:
                self.say(lambda: Member(time=UNSTAMPED, site=name, act="invited"))

    def request(self, token: str, request: Request, now: float) -> str:
        """Spend ``token`` on ``request``; returns the site's name.

        Raises:
            TrustError: STR-211. The token is unknown, expired or spent (one answer for all
                three), or another site has one of these keys.
        """
        wanted = token_digest(token)
        with self.transaction() as db:
            name = None
            rows = db.execute(
                "SELECT name, token_sha256, token_expires FROM sites WHERE token_sha256 NOT NULL"
            ).fetchall()
            # Every row is compared, in constant time each: the answer's time tells nothing.
            for site, digest, expires in rows:
                same = hmac.compare_digest(str(digest), wanted)
                if same and now < float(expires):
                    name = str(site)
            if name is None:
                raise not_invited()
            try:
                db.execute(
                    "UPDATE sites SET status = ?, token_sha256 = NULL, token_expires = NULL,"
                    " request_pem = ?, request_fingerprint = ?, spki_sha256 = ?, signing_key = ?,"
                    " changed_at = ? WHERE name = ?",
                    (
                        REQUESTED,
                        request.pem,
                        request.fingerprint,
                        request.spki_sha256,
                        request.signing_key,
                        now,
                        name,
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise not_invited() from error
        return name

    def enrol(self, name: str, fingerprint: str, issued: Issued, now: float) -> None:
        """Let ``name`` in with ``issued``, provided its request is still the one that was compared.

        Raises:
            ConfigError: STR-108, the site awaits no approval, or of another request.
        """
        with self.transaction() as db:
            changed = db.execute(
                "UPDATE sites SET status = ?, certificate_pem = ?, certificate_sha256 = ?,"
                " not_after = ?, renew_now = 0, changed_at = ?"
                " WHERE name = ? AND status = ? AND request_fingerprint = ?",
                (
                    ENROLLED,
                    issued.pem,
                    issued.sha256,
                    issued.not_after,
                    now,
                    name,
                    REQUESTED,
                    fingerprint,
                ),
            ).rowcount
            if changed != 1:
                raise _state(f"{name} awaits no approval of this request.", "See `site list`.")
            self.say(lambda: member_of(self.site(name), "approved"))

    def renewed(self, name: str, issued: Issued, now: float) -> None:
        """Record a newer certificate of an enrolled site.

        Raises:
            ConfigError: STR-108, the site is not enrolled (any more).
        """
        self._change(
            "UPDATE sites SET certificate_pem = ?, certificate_sha256 = ?, not_after = ?,"
            " renew_now = 0, changed_at = ? WHERE name = ? AND status = 'enrolled'",
            (issued.pem, issued.sha256, issued.not_after, now, name),
            name=name,
            act="renewed",
        )

    def ask_renewal(self, name: str, now: float) -> None:
        """Have an enrolled site take a new certificate at its next question.

        Raises:
            ConfigError: STR-108, the site is not enrolled.
        """
        self._change(
            "UPDATE sites SET renew_now = 1, changed_at = ? WHERE name = ? AND status = 'enrolled'",
            (now, name),
        )

    def revoke(self, name: str, now: float) -> None:
        """Let ``name`` out, in whatever state it is; its invitation and request go with it.

        Raises:
            ConfigError: STR-108, there is no such site or it is revoked already.
        """
        self._change(
            "UPDATE sites SET status = 'revoked', token_sha256 = NULL, token_expires = NULL,"
            " renew_now = 0, changed_at = ? WHERE name = ? AND status != 'revoked'",
            (now, name),
            name=name,
            act="revoked",
        )

    def _change(
        self, sql: str, values: tuple[object, ...], *, name: str = "", act: Act | None = None
    ) -> None:
        with self.transaction() as db:
            if db.execute(sql, values).rowcount != 1:
                raise _state("The site is unknown or in another state.", "See `site list`.")
            if act is not None:
                self.say(lambda: member_of(self.site(name), act))

    # -- operators -----------------------------------------------------------------------------

    def operators(self) -> tuple[OperatorRecord, ...]:
        """Operators in office, by name."""
        rows = self._db.execute(
            "SELECT key_id, name, public_key FROM operators WHERE removed_at IS NULL ORDER BY name"
        )
        return tuple(OperatorRecord(*map(str, row)) for row in rows)

    def add_operator(self, operator: OperatorRecord, now: float) -> None:
        """Add an operator.

        Raises:
            ConfigError: STR-108, the name or key was used before.
        """
        with self.transaction() as db:
            try:
                db.execute(
                    "INSERT INTO operators (key_id, name, public_key, added_at)"
                    " VALUES (?, ?, ?, ?)",
                    (operator.key_id, operator.name, operator.public_key, now),
                )
            except sqlite3.IntegrityError as error:
                raise _state(
                    "An operator of that name or key is or was in office.", "Use another name."
                ) from error

    def remove_operator(self, name: str, now: float) -> None:
        """Take an operator out of office; the last one stays.

        Raises:
            ConfigError: STR-108, there is no such operator, or no other.
        """
        with self.transaction() as db:
            left = {
                row[0] for row in db.execute("SELECT name FROM operators WHERE removed_at IS NULL")
            }
            if name not in left or left == {name}:
                raise _state(
                    "There is no such operator, or no other one.", "Add the successor first."
                )
            db.execute(
                "UPDATE operators SET removed_at = ? WHERE name = ? AND removed_at IS NULL",
                (now, name),
            )


def member_of(site: SiteRecord, act: Act) -> Member:
    """The log's entry about a site, as it is after ``act``."""
    return Member(
        time=UNSTAMPED,
        site=site.name,
        act=act,
        certificate_sha256=site.certificate_sha256 if act in {"approved", "renewed"} else None,
        signing_key=site.signing_key if act in {"approved", "renewed"} else None,
    )


def token_digest(token: str) -> str:
    """What is kept of a token. It has 192 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def not_invited() -> TrustError:
    """The one answer for an unknown, expired or spent token."""
    return TrustError(
        "The invitation is unknown, has expired or was used.",
        fix="Ask the operator for a new one (`stillroom-server site invite`).",
        code="STR-211",
    )


def _records(
    db: sqlite3.Connection, where: str, values: tuple[object, ...] = ()
) -> tuple[SiteRecord, ...]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM sites {where}", values).fetchall()  # noqa: S608  # constants
    return tuple(SiteRecord(**dict(zip(_NAMES, row, strict=True))) for row in rows)


def _state(what: str, fix: str) -> ConfigError:
    return ConfigError(what, fix=fix, code="STR-108")
