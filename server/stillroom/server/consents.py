"""What sites have said about studies: received over the edge, kept in the registry, asked per round.

The server believes a consent only when the site's own signing key, as it was enrolled, signed it;
it can neither make one nor undo a withdrawal: an older record never replaces a newer one.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from stillroom.common.consent import (
    Consent,
    Record,
    Standing,
    check_record,
    parse_record,
    record_bytes,
    standing,
    supersedes,
)
from stillroom.common.errors import StillroomError, TrustError
from stillroom.common.log_entries import UNSTAMPED
from stillroom.common.log_entries import Consent as ConsentEntry
from stillroom.common.signing import public_key_from_hex
from stillroom.server.store.members import ENROLLED
from stillroom.server.store.registry import Registry


def receive(
    site: str, body: bytes, registry: Registry, *, now: float | None = None
) -> dict[str, Any]:
    """Keep the consent or withdrawal in ``body``, sent by ``site`` over its own connection.

    One that the registry holds already, or that is older than what it holds, changes nothing.

    Args:
        site: Name in the certificate of the connection.
        body: The request's body.
        registry: Open for writing.
        now: Seconds since the epoch; the clock's when left out.

    Returns:
        The answer: whether the record is the one that counts now.

    Raises:
        ContractError: STR-300, not a record.
        TrustError: STR-206 it speaks for another site, or the site is not enrolled; STR-207 the
            site's signing key did not sign it.
    """
    record = parse_record(body)
    known = {entry.name: entry for entry in registry.sites()}.get(site)
    if record.site != site or known is None or known.status != ENROLLED or not known.signing_key:
        raise TrustError(
            "The consent speaks for another site than the one that sent it.",
            fix="Let every site send its own; see `stillroom-server site list`.",
            code="STR-206",
        )
    check_record(record, public_key_from_hex(known.signing_key))
    with registry.transaction() as db:
        latest = _latest(registry, site, record.study)
        if supersedes(record, latest):
            db.execute(
                "INSERT INTO consents (site, study, record, signed_at, received_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    site,
                    record.study,
                    record_bytes(record),
                    record.at,
                    time.time() if now is None else now,
                ),
            )
            latest = record
            registry.say(lambda: consent_entry(record))
    return {"counts": record == latest}


def consent_entry(record: Record) -> ConsentEntry:
    """The log's entry about a record that counts now."""
    return ConsentEntry(
        time=UNSTAMPED,
        site=record.site,
        study=record.study,
        act="given" if isinstance(record, Consent) else "withdrawn",
        record=record_bytes(record).decode("utf-8"),
    )


def all_records(registry: Registry) -> list[Record]:
    """Every record that the registry has kept, in the order in which they came."""
    rows = registry.query("SELECT record FROM consents ORDER BY id")
    return [parse_record(cast("bytes", row[0])) for row in rows]


def standings(registry: Registry, study: str, *, now: float) -> dict[str, Standing]:
    """Every site of the registry -> what its latest record for ``study`` amounts to."""
    found: dict[str, Standing] = {}
    for entry in registry.sites():
        found[entry.name] = "none"
        if entry.status == ENROLLED and entry.signing_key:
            try:
                found[entry.name] = standing(
                    _latest(registry, entry.name, study),
                    study=study,
                    site=entry.name,
                    key=public_key_from_hex(entry.signing_key),
                    now=now,
                )
            except StillroomError:
                found[entry.name] = "invalid"
    return found


class RegistryConsents:
    """What a study run asks before every round: the registry as it is at that moment."""

    def __init__(self, registry: Path, study: str) -> None:
        self._path = registry
        self._study = study

    def __call__(self) -> Mapping[str, Standing]:
        """Site -> standing now."""
        with Registry(self._path, read_only=True) as registry:
            return standings(registry, self._study, now=time.time())


def _latest(registry: Registry, site: str, study: str) -> Record | None:
    rows = registry.query(
        "SELECT record FROM consents WHERE site = ? AND study = ? ORDER BY id DESC LIMIT 1",
        (site, study),
    )
    return parse_record(cast("bytes", rows[0][0])) if rows else None
