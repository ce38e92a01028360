"""What the registry says and the log lacks: written down when the server starts.

An entry is made within the transaction that it is about, so that normally nothing is lacking. It is where
a consortium is older than its log, or a command ran without the log's key.
"""

import hashlib
from collections.abc import Iterator, Mapping

from stillroom.common.consortium import Consortium
from stillroom.common.log_entries import (
    UNSTAMPED,
    Consent,
    ConsortiumOpened,
    Entry,
    Member,
)
from stillroom.server.consents import all_records, consent_entry
from stillroom.server.logbook import Logbook
from stillroom.server.store.members import ENROLLED, OUT, REQUESTED, REVOKED, SiteRecord, member_of
from stillroom.server.store.registry import Registry


def reconcile(book: Logbook, consortium: Consortium, registry: Registry | None) -> int:
    """Append what the log lacks; returns how many entries that were.

    Raises:
        TrustError: STR-221, the log is not what was promised.
        ValueError: The log is damaged.
    """
    told = [entry for _, entry in book.entries()]
    lacking = [*_description(told, consortium)]
    if registry is not None:
        last = {entry.site: entry for entry in told if isinstance(entry, Member)}
        for site in registry.sites():
            lacking += _membership(last, site)
        words = {entry.record for entry in told if isinstance(entry, Consent)}
        entries = map(consent_entry, all_records(registry))
        lacking += [entry for entry in entries if entry.record not in words]
    book.note(*lacking)
    return len(lacking)


def description_entry(consortium: Consortium) -> ConsortiumOpened:
    """The log's entry about a description."""
    return ConsortiumOpened(
        time=UNSTAMPED,
        version=int(consortium.issued_at.timestamp()),
        sha256=hashlib.sha256(consortium.raw).hexdigest(),
    )


def _description(told: list[Entry], consortium: Consortium) -> Iterator[Entry]:
    present = description_entry(consortium)
    named = [entry.sha256 for entry in told if isinstance(entry, ConsortiumOpened)]
    if present.sha256 not in named[-1:]:
        yield present


def _membership(last: Mapping[str, Member], site: SiteRecord) -> Iterator[Entry]:
    known = last.get(site.name)
    before = None if known is None else known.act
    if site.status == ENROLLED:
        present = member_of(site, "renewed" if before in {"approved", "renewed"} else "approved")
        same = known is not None and known.certificate_sha256 == present.certificate_sha256
        if not same or before not in {"approved", "renewed"}:
            yield present
    elif site.status == REVOKED:
        if before not in {None, *OUT}:
            yield member_of(site, "revoked")
    elif site.status != REQUESTED and before in {None, *OUT}:
        yield member_of(site, "invited")
