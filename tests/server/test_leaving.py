"""A site shuts itself out, and asks when its courier was last heard."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stillroom.common.enrolment import key_request
from stillroom.common.errors import ConfigError
from stillroom.common.log_entries import Member
from stillroom.common.pki.files import load_certificate, load_key
from stillroom.common.pki.issue import new_key
from stillroom.common.signing import new_signing_key
from stillroom.deploy.consortium_files import Layout, found_consortium, logbook
from stillroom.server.edge import Peer
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.enrolment import Authority, enrol_by_file
from stillroom.server.foundation import Papers
from stillroom.server.reconciliation import reconcile
from stillroom.server.site_api import leaving, presence
from stillroom.server.store.registry import Registry


def test_a_site_leaves_by_itself(tmp_path: Path) -> None:
    """Out at once, once, in the log as its own act; it may be invited and enrolled again."""
    layout = Layout(tmp_path)
    found_consortium(layout, ["north", "river"])
    papers, book = Papers(layout.server), logbook(layout)
    with Registry(papers.registry, note=book.note) as registry:
        assert leaving("north", b"", registry) == {"left": True}
        assert {s.name: s.status for s in registry.sites()} == {
            "north": "revoked",
            "river": "enrolled",
        }
        with pytest.raises(ConfigError, match="STR-108"):
            leaving("north", b"", registry)
        authority = Authority(load_certificate(papers.ca), load_key(papers.ca_key))
        request = key_request(new_key(), new_signing_key())
        enrol_by_file(registry, authority, "north", request, datetime.now(UTC))
    members = [(e.site, e.act) for _, e in book.entries() if isinstance(e, Member)]
    mine = [act for site, act in members if site == "north"]
    assert mine[mine.index("left") :] == ["left", "invited", "approved"]


def test_the_log_is_settled_without_a_second_entry(tmp_path: Path) -> None:
    """A server that starts after a site has left finds nothing to add."""
    layout = Layout(tmp_path)
    found_consortium(layout, ["north"])
    papers, book = Papers(layout.server), logbook(layout)
    with Registry(papers.registry, note=book.note) as registry:
        leaving("north", b"", registry)
    size = book.size()
    from stillroom.common.consortium import read_consortium

    with Registry(papers.registry, read_only=True) as registry:
        reconcile(book, read_consortium(papers.consortium.read_bytes()), registry)
    members = [e.act for _, e in book.entries(size) if isinstance(e, Member)]
    assert members == []


def test_when_a_courier_was_heard() -> None:
    """Its own words to Flower count; a doctor's question does not."""
    record = EdgeRecord()
    ask = presence(record.courier_heard)
    assert ask("north", b"", None) == {"courier_s": None}  # type: ignore[arg-type]
    seen = record.seen(Peer("north", "ab" * 32, b"", "TLSv1.3"), time.time())
    assert ask("north", b"", None) == {"courier_s": None}  # type: ignore[arg-type]
    seen.courier_at = time.time() - 7
    heard = ask("north", b"", None)["courier_s"]  # type: ignore[arg-type]
    assert 6.9 <= heard <= 8
