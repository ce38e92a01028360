"""Who writes into the log: the registry's changes, what a start finds lacking, what the edge refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stillroom.common.consent import give, withdraw
from stillroom.common.enrolment import key_request
from stillroom.common.errors import ConfigError, ResourceError, TrustError
from stillroom.common.log_entries import Consent, ConsortiumOpened, Entry, Member, Operator, Refused
from stillroom.common.pki.files import load_signing_key, write_signing_key
from stillroom.common.pki.issue import new_key
from stillroom.common.signing import new_signing_key
from stillroom.server.config import ServerConfig
from stillroom.server.consents import receive
from stillroom.server.edge_record import EdgeRecord
from stillroom.server.enrolment import Authority, enrol_by_file, load_consortium, open_registry
from stillroom.server.foundation import Papers, describe_again, found
from stillroom.server.logbook import Logbook, from_settings, log_settings, note_act, open_logbook
from stillroom.server.reconciliation import reconcile
from stillroom.server.refusals import Refusals

NOW = datetime.now(UTC)


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    folder = tmp_path / "consortium"
    found(folder, "Example", ["localhost"], NOW)
    return ServerConfig.load(folder / "server.toml")


def book_of(config: ServerConfig) -> Logbook:
    book = open_logbook(config)
    assert book is not None
    return book


def entries(config: ServerConfig) -> list[Entry]:
    return [entry for _, entry in book_of(config).entries()]


def test_a_consortium_begins_with_its_log(config: ServerConfig) -> None:
    """The first entry is the description; key and guard are where server.toml says."""
    (first,) = entries(config)

    assert isinstance(first, ConsortiumOpened)
    assert config.log_key.stat().st_mode & 0o077 == 0
    assert config.guard.exists()


def test_members_and_consents(config: ServerConfig) -> None:
    """A site's whole life; each entry once, with the certificate and key it has from then on."""
    book, signing = book_of(config), new_signing_key()
    authority = Authority.load(config)
    with open_registry(config, book.note) as registry:
        keys = key_request(new_key(), signing)
        issued = enrol_by_file(registry, authority, "river", keys, NOW)
        consent = give(signing, study="ab" * 32, site="river", now=int(NOW.timestamp()))
        body = consent.model_dump_json().encode()
        receive("river", body, registry)
        receive("river", body, registry)  # told again at every start of its courier
        gone = withdraw(signing, study="ab" * 32, site="river", now=consent.at, earlier=consent)
        receive("river", gone.model_dump_json().encode(), registry)
        registry.renewed("river", issued, NOW.timestamp())
        registry.revoke("river", NOW.timestamp())
    told = entries(config)[1:]

    members = [e for e in told if isinstance(e, Member)]
    assert [e.act for e in members] == ["invited", "approved", "renewed", "revoked"]
    assert members[1].certificate_sha256 == issued.sha256
    assert members[1].signing_key == signing.public_key().public_bytes_raw().hex()
    assert [e.act for e in told if isinstance(e, Consent)] == ["given", "withdrawn"]
    with open_registry(config) as registry:
        assert reconcile(book, load_consortium(config), registry) == 0


def test_no_entry_no_effect(config: ServerConfig) -> None:
    """A log that cannot be written stops the change that it could not have told of."""

    def full(_: Entry) -> None:
        raise ResourceError("The log could not be written.", fix="Make room.", code="STR-503")

    with open_registry(config, full) as registry:
        with pytest.raises(ResourceError):
            registry.invite("river", "token", NOW.timestamp())
        assert registry.sites() == ()


def test_what_the_log_lacks_is_added_at_the_start(config: ServerConfig) -> None:
    """A registry that is older than its log, or was changed without it."""
    with open_registry(config) as registry:
        signing = new_signing_key()
        keys = key_request(new_key(), signing)
        enrol_by_file(registry, Authority.load(config), "river", keys, NOW)
        consent = give(signing, study="ab" * 32, site="river", now=int(NOW.timestamp()))
        receive("river", consent.model_dump_json().encode(), registry)
        registry.invite("harbour", "token", NOW.timestamp())
        assert reconcile(book_of(config), load_consortium(config), registry) == 3
        assert reconcile(book_of(config), load_consortium(config), registry) == 0
        registry.revoke("river", NOW.timestamp())
        assert reconcile(book_of(config), load_consortium(config), registry) == 1

    acts = [(e.site, e.act) for e in entries(config) if isinstance(e, Member)]
    assert acts == [("harbour", "invited"), ("river", "approved"), ("river", "revoked")]


def test_a_new_description(config: ServerConfig) -> None:
    """Operators come and go: the log names every description before a site can see it."""
    papers = Papers(config.registry.parent if config.registry else Path())
    with open_registry(config) as registry:
        signer = load_signing_key(papers.operator_key)
        later = NOW + timedelta(days=1)
        describe_again(papers, registry, "Example", signer, later, note=book_of(config).note)

    assert [type(e) for e in entries(config)] == [ConsortiumOpened, ConsortiumOpened]
    assert reconcile(book_of(config), load_consortium(config), None) == 0


def test_operators_and_refusals(config: ServerConfig) -> None:
    """What an operator does, and what the edge refused, summed up since the last time."""
    note_act(config, "run stop", "trial")
    record = EdgeRecord()
    refusals = Refusals(record, NOW.timestamp())
    assert refusals.sum_up(NOW.timestamp()) is None
    record.refused["revoked"] += 2
    record.handshakes_refused["tls-expired"] += 1
    first = refusals.sum_up(NOW.timestamp() + 1)
    record.refused["revoked"] += 1
    second = refusals.sum_up(NOW.timestamp() + 2)

    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert (first.reasons, second.reasons) == ({"revoked": 2, "tls-expired": 1}, {"revoked": 1})
    assert refusals.sum_up(NOW.timestamp() + 3) is None
    last = entries(config)[-1]
    assert isinstance(last, Operator)
    assert (last.act, last.subject) == ("run stop", "trial")


def test_another_process_finds_the_same_log(config: ServerConfig) -> None:
    """Settings of a run are enough to append; without a log they are empty, and nothing is."""
    settings = {key: str(value) for key, value in log_settings(config).items()}
    other = from_settings(settings)
    assert other is not None
    other.note(Operator(time="1970-01-01T00:00:00.000Z", act="x"))

    assert len(entries(config)) == 2
    assert entries(config)[1].time > "2026"
    assert from_settings({}) is None


def test_wrong_or_missing_key(config: ServerConfig) -> None:
    """STR-102, STR-101: a server that cannot keep the promised log does not start."""
    key = config.log_key
    key.unlink()
    with pytest.raises(ConfigError) as missing:
        open_logbook(config)
    write_signing_key(key, new_signing_key())
    with pytest.raises(ConfigError) as other:
        open_logbook(config)

    assert (missing.value.code, other.value.code) == ("STR-101", "STR-102")


def test_yesterdays_log_is_not_gone_on_with(config: ServerConfig) -> None:
    """STR-221: the guard remembers more than the log."""
    import shutil

    shutil.copytree(config.log, config.state / "yesterday")
    note_act(config, "x")
    shutil.rmtree(config.log)
    shutil.copytree(config.state / "yesterday", config.log)
    with pytest.raises(TrustError) as caught:
        reconcile(book_of(config), load_consortium(config), None)
    assert caught.value.code == "STR-221"
