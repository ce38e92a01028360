"""Who may speak to this server: sites, their invitations, and operators. SQLite, one file.

A site's life::

    invited -> requested -> enrolled -> revoked
       ^-----------------------------------'   (only by a new invitation, with new keys)

Every change is one transaction, durable when the call returns (WAL, ``synchronous=FULL``): after a
crash a site is in the state before or after it, never between.
"""

import hmac
import sqlite3
from dataclasses import fields

from stillroom.common.errors import ConfigError
from stillroom.common.log_entries import UNSTAMPED, Member
from stillroom.common.pki.names import site_san
from stillroom.server.store.members import (
    ENROLLED,
    INVITATION_HOURS,
    INVITED,
    REQUESTED,
    REVOKED,
    Act,
    Issued,
    OperatorRecord,
    Request,
    SiteRecord,
    member_of,
    not_invited,
    token_digest,
)
from stillroom.server.store.registry_file import RegistryFile

_NAMES = [field.name for field in fields(SiteRecord)]
_COLUMNS = ", ".join(_NAMES)


class Registry(RegistryFile):
    """Sites and operators, and every change there is. One object per thread."""

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

    def revoke(self, name: str, now: float, *, act: Act = "revoked") -> None:
        """Let ``name`` out, in whatever state it is; its invitation and request go with it.

        Args:
            name: The site.
            now: Seconds since the epoch.
            act: ``left`` where it was the site's own will.

        Raises:
            ConfigError: STR-108, there is no such site or it is revoked already.
        """
        self._change(
            "UPDATE sites SET status = 'revoked', token_sha256 = NULL, token_expires = NULL,"
            " renew_now = 0, changed_at = ? WHERE name = ? AND status != 'revoked'",
            (now, name),
            name=name,
            act=act,
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


def _records(
    db: sqlite3.Connection, where: str, values: tuple[object, ...] = ()
) -> tuple[SiteRecord, ...]:
    rows = db.execute(f"SELECT {_COLUMNS} FROM sites {where}", values).fetchall()  # noqa: S608  # constants
    return tuple(SiteRecord(**dict(zip(_NAMES, row, strict=True))) for row in rows)


def _state(what: str, fix: str) -> ConfigError:
    return ConfigError(what, fix=fix, code="STR-108")
