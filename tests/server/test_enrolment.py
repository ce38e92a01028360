"""Founding a consortium and letting sites in: the rules, without a network."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from stillroom.common.consortium import read_consortium
from stillroom.common.enrolment import (
    CLOCK_S,
    Enrol,
    KeyRequest,
    RenewQuestion,
    StatusQuestion,
    key_request,
    status_question,
)
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import load_certificate, load_key
from stillroom.common.pki.issue import issue_site, new_key
from stillroom.common.pki.request import make_request
from stillroom.common.signing import new_signing_key, public_key_hex
from stillroom.server.config import ServerConfig
from stillroom.server.door import ENROL_PER_WINDOW, MOST_ADDRESSES, WINDOW_S, Knocks
from stillroom.server.enrolment import Authority, enrol_by_file, receive, renew, status
from stillroom.server.foundation import Papers, found
from stillroom.server.membership import Members, handshake_cause, read_peer
from stillroom.server.store.registry import Registry

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """A founded consortium."""
    made = Papers(tmp_path_factory.mktemp("consortium") / "server")
    found(made.folder, "Example", ["fl.example.org", "127.0.0.1"], NOW)
    return made


@pytest.fixture(scope="module")
def authority(papers: Papers) -> Authority:
    """Its CA."""
    return Authority.load(ServerConfig.load(papers.config))


def code(call: object, *arguments: object) -> str:
    with pytest.raises(StillroomError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_founding(papers: Papers) -> None:
    """Private keys for their owner alone, a CA for ten years, and never twice in one folder."""
    for key in papers.folder.glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    ca = load_certificate(papers.ca)
    assert ca.not_valid_after_utc - NOW > timedelta(days=3640)
    key = ca.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert read_consortium(papers.consortium.read_bytes()).name == "Example"
    assert code(found, papers.folder, "Again", ["localhost"], NOW) == "STR-107"
    assert code(found, papers.folder / "new", "Bad host", ["http://x"], NOW) == "STR-100"
    assert not (papers.folder / "new").exists()


def test_a_request_must_prove_both_keys() -> None:
    """Another's signing key, another's request or a changed one is refused."""
    good = key_request(new_key(), new_signing_key())
    other = key_request(new_key(), new_signing_key())
    for changes in (
        {"signing_key": other.signing_key},
        {"csr": other.csr},
        {"signature": other.signature},
    ):
        mixed = KeyRequest(**{**good.model_dump(), **changes})
        assert code(mixed.check) == "STR-207"
    assert good.check() == (good.check()[0], good.check()[1])


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"token": 1}', b"[" * 20_000, b"{}" + b" " * 20_000, b"\xff\xfe"]
)
def test_hostile_bodies(raw: bytes) -> None:
    """No JSON, nested, too long, of another form: one expected refusal."""
    for form in (Enrol, StatusQuestion, RenewQuestion, KeyRequest):
        assert code(form.parse, raw) == "STR-300"


def test_a_mistake_does_not_cost_the_token(papers: Papers, authority: Authority) -> None:
    """A bad request leaves the token as it was; a good one spends it; status needs the key."""
    now, signing = time.time(), new_signing_key()
    good = key_request(new_key(), signing)
    bad = KeyRequest(**{**good.model_dump(), "signing_key": public_key_hex(new_signing_key())})
    with Registry(papers.registry) as registry:
        registry.invite("alpha", "token-alpha", now)
        assert code(receive, registry, Enrol(token="token-alpha", keys=bad), now) == "STR-207"
        assert receive(registry, Enrol(token="token-alpha", keys=good), now).site == "alpha"
        asked = status_question(signing, datetime.now(UTC))
        assert status(registry, asked, now).status == "requested"
        assert code(status, registry, asked, now + CLOCK_S + 2) == "STR-300"
        stranger = status_question(new_signing_key(), datetime.now(UTC))
        assert code(status, registry, stranger, now) == "STR-211"


def test_renewal_from_day_20(papers: Papers, authority: Authority) -> None:
    """Not before, unless the operator asks; for the enrolled key only; never when revoked."""
    key = new_key()
    question = RenewQuestion(csr=make_request(key))
    with Registry(papers.registry) as registry:
        enrol_by_file(registry, authority, "beta", key_request(key, new_signing_key()), NOW)
        early, late = NOW + timedelta(days=19, hours=23), NOW + timedelta(days=20, minutes=1)
        assert renew(registry, authority, "beta", question, early).certificate is None
        fresh = renew(registry, authority, "beta", question, late).certificate
        assert fresh is not None
        read = x509.load_pem_x509_certificate(fresh.encode())
        assert read.public_key() == key.public_key()
        assert read.not_valid_after_utc > NOW + timedelta(days=49)
        assert renew(registry, authority, "beta", question, late).certificate is None
        registry.ask_renewal("beta", NOW.timestamp())
        assert renew(registry, authority, "beta", question, late).certificate is not None
        other = RenewQuestion(csr=make_request(new_key()))
        assert code(renew, registry, authority, "beta", other, late) == "STR-203"
        registry.ask_renewal("beta", NOW.timestamp())
        registry.revoke("beta", NOW.timestamp())
        assert code(renew, registry, authority, "beta", question, late) == "STR-108"


def test_members_learn_at_once(papers: Papers, authority: Authority) -> None:
    """Another process's commit acts on the next question, both ways."""
    key = new_key()
    with Registry(papers.registry) as registry:
        members = Members(authority.certificate, papers.registry)
        made = issue_site(authority.certificate, authority.key, key.public_key(), "gamma", NOW)
        from cryptography.hazmat.primitives.serialization import Encoding

        peer = read_peer(made.public_bytes(Encoding.DER), "TLSv1.3")
        assert members.refusal(peer) == "not-enrolled"
        enrol_by_file(registry, authority, "gamma", key_request(key, new_signing_key()), NOW)
        assert members.refusal(peer) is None
        registry.revoke("gamma", NOW.timestamp())
        assert members.refusal(peer) == "revoked"
        assert members.refusal(None) == "no-site-certificate"
        members.close()
    assert read_peer(b"no certificate", "TLSv1.3") is None


def test_knocking_too_often() -> None:
    """Each address has its own allowance, which comes back; memory stays bounded."""
    clock = [0.0]
    knocks = Knocks(ENROL_PER_WINDOW, lambda: clock[0])
    assert all(knocks.allow("a") for _ in range(ENROL_PER_WINDOW))
    assert not knocks.allow("a")
    assert knocks.allow("b")
    clock[0] = WINDOW_S
    assert knocks.allow("a")
    for number in range(MOST_ADDRESSES + 100):
        knocks.allow(str(number))
    assert len(knocks._seen) == MOST_ADDRESSES


def test_unknown_causes_have_a_name() -> None:
    """Whatever OpenSSL says ends up under a short, fixed name."""
    assert handshake_cause("", "certificate has expired") == "tls-expired"
    assert handshake_cause("", "something new") == "tls-certificate"
    assert handshake_cause("SOMETHING_NEW", "") == "tls-other"


def test_operators_and_the_servers_certificate(tmp_path: Path) -> None:
    """The command line: a second operator, the description anew, and a new server certificate."""
    papers = Papers(tmp_path / "server")
    found(papers.folder, "Example", ["localhost"], NOW)
    before = load_certificate(papers.server)

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "stillroom.server.cli", *arguments]
        done = subprocess.run(
            [*command, "--config", str(papers.config)], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    key = public_key_hex(new_signing_key())
    assert "operator second" in run("operator", "add", "second", "--public-key", key)
    described = read_consortium(papers.consortium.read_bytes())
    assert {operator.name for operator in described.operators.values()} == {
        "first operator",
        "second",
    }
    assert "removed" in run("operator", "remove", "second")
    assert len(read_consortium(papers.consortium.read_bytes()).operators) == 1
    assert "restart" in run("renew-certificate", "--host", "localhost")
    after = load_certificate(papers.server)
    assert after.serial_number != before.serial_number
    assert after.public_key() == load_key(papers.server_key).public_key()
