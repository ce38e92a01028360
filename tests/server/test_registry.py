"""The registry: every state a site can be in, and every way between them."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillroom.common.errors import StillroomError
from stillroom.server.store.members import INVITATION_HOURS, Issued, OperatorRecord, Request
from stillroom.server.store.registry import Registry

NOW = 1_800_000_000.0
FIRST = Request("pem-1", "a" * 64, "b" * 64, "c" * 16)
SECOND = Request("pem-2", "d" * 64, "e" * 64, "f" * 16)
ISSUED = Issued("certificate", "1" * 64, NOW + 30 * 86400)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    with Registry.create(tmp_path / "registry.db") as made:
        yield made


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    """The block ends in this error."""
    with pytest.raises(StillroomError) as caught:
        yield
    assert caught.value.code == code


def enrolled(registry: Registry, name: str = "north") -> None:
    registry.invite(name, f"token-{name}", NOW)
    registry.request(f"token-{name}", FIRST, NOW)
    registry.enrol(name, FIRST.fingerprint, ISSUED, NOW)


def test_life_of_a_site(registry: Registry) -> None:
    """Invited, requested, enrolled, renewed, revoked, and invited again with nothing left over."""
    enrolled(registry)
    assert registry.site("north").status == "enrolled"
    registry.ask_renewal("north", NOW)
    assert registry.site("north").renew_now
    registry.renewed("north", Issued("newer", "2" * 64, NOW + 1), NOW)
    renewed = registry.site("north")
    assert (renewed.certificate_pem, renewed.renew_now) == ("newer", 0)
    registry.revoke("north", NOW)
    assert registry.site("north").status == "revoked"
    registry.invite("north", "again", NOW)
    fresh = registry.site("north")
    assert (fresh.status, fresh.spki_sha256, fresh.certificate_pem) == ("invited", None, None)


def test_a_token_works_once_and_for_72_hours(registry: Registry) -> None:
    """Unknown, expired and used tokens get the same answer; the token itself is stored nowhere."""
    registry.invite("north", "secret-token", NOW)
    with refused("STR-211"):
        registry.request("wrong", FIRST, NOW)
    with refused("STR-211"):
        registry.request("secret-token", FIRST, NOW + INVITATION_HOURS * 3600)
    assert registry.request("secret-token", FIRST, NOW) == "north"
    with refused("STR-211"):
        registry.request("secret-token", FIRST, NOW)
    assert registry.query("SELECT * FROM sites WHERE token_sha256 LIKE '%secret%'") == []


def test_one_key_one_site(registry: Registry) -> None:
    """A second site cannot enrol with the first one's keys; its token is not spent by trying."""
    enrolled(registry)
    registry.invite("south", "token-south", NOW)
    with refused("STR-211"):
        registry.request("token-south", FIRST, NOW)
    assert registry.request("token-south", SECOND, NOW) == "south"


def test_only_the_compared_request_is_approved(registry: Registry) -> None:
    """Approval names the fingerprint that was compared, so that no later request slips in."""
    registry.invite("north", "t", NOW)
    with refused("STR-108"):
        registry.enrol("north", FIRST.fingerprint, ISSUED, NOW)
    registry.request("t", FIRST, NOW)
    with refused("STR-108"):
        registry.enrol("north", SECOND.fingerprint, ISSUED, NOW)
    registry.enrol("north", FIRST.fingerprint, ISSUED, NOW)


def test_wrong_states(registry: Registry) -> None:
    """What makes no sense is refused and changes nothing."""
    enrolled(registry)
    with refused("STR-108"):
        registry.invite("north", "x", NOW)
    with refused("STR-100"):
        registry.invite("No Name", "x", NOW)
    for change in (registry.revoke, registry.ask_renewal):
        with refused("STR-108"):
            change("nobody", NOW)
    registry.revoke("north", NOW)
    with refused("STR-108"):
        registry.renewed("north", ISSUED, NOW)
    with refused("STR-108"):
        registry.revoke("north", NOW)


def test_readers_notice_changes_and_cannot_make_any(tmp_path: Path) -> None:
    """The edge's connection sees another's commit by its data version, and is read-only."""
    path = tmp_path / "registry.db"
    with Registry.create(path) as writer, Registry(path, read_only=True) as reader:
        before = reader.version()
        enrolled(writer)
        assert reader.version() != before
        assert reader.site("north").status == "enrolled"
        assert reader.version() == reader.version()
        with pytest.raises(sqlite3.OperationalError):
            reader.revoke("north", NOW)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_change_leaves_nothing(registry: Registry) -> None:
    """A crash inside a transaction is as if it had not begun."""

    def fail_half_way() -> None:
        with registry.transaction() as db:
            db.execute("INSERT INTO operators VALUES ('k', 'n', 'p', 0, NULL)")
            db.execute("DELETE FROM nothing")

    with pytest.raises(sqlite3.OperationalError):
        fail_half_way()
    assert registry.operators() == ()


def test_no_registry_is_not_an_empty_registry(tmp_path: Path) -> None:
    """A missing or foreign file stops loudly."""
    with refused("STR-101"):
        Registry(tmp_path / "absent.db")
    (tmp_path / "foreign.db").write_bytes(b"not a database" * 100)
    with refused("STR-101"):
        Registry(tmp_path / "foreign.db", read_only=True)


def test_operators(registry: Registry) -> None:
    """Added once, removed for good, and never the last one."""
    first = OperatorRecord("1" * 16, "first", "a" * 64)
    registry.add_operator(first, NOW)
    with refused("STR-108"):
        registry.add_operator(first, NOW)
    with refused("STR-108"):
        registry.remove_operator("first", NOW)
    registry.add_operator(OperatorRecord("2" * 16, "second", "b" * 64), NOW)
    registry.remove_operator("first", NOW)
    assert [operator.name for operator in registry.operators()] == ["second"]
