"""A consent holds for one study, one site, one key and a while; a withdrawal ends it."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.common.consent import (
    CLOCK_SKEW_S,
    Consent,
    Record,
    give,
    parse_record,
    record_bytes,
    require_given,
    standing,
    supersedes,
    withdraw,
)
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.signing import new_signing_key, sign

GOLDEN = Path(__file__).parents[1] / "golden" / "consent.json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STUDY, SITE, NOW = "a" * 64, "harbour", 1_790_000_000


def consent(**changes: Any) -> Consent:
    """A good consent, or one that differs."""
    return give(KEY, **({"study": STUDY, "site": SITE, "now": NOW} | changes))


def found(record: Record | None, *, now: float = NOW, **asked: Any) -> str:
    """Its standing for the good study, site and key unless said otherwise."""
    question = {"study": STUDY, "site": SITE, "key": KEY.public_key()} | asked
    return standing(record, now=now, **question)


def test_the_bytes_of_a_record_never_change() -> None:
    """A consent and a withdrawal by a key of 00..1f are these two lines."""
    one = consent()
    two = withdraw(KEY, study=STUDY, site=SITE, now=NOW, earlier=one)
    assert GOLDEN.read_bytes() == record_bytes(one) + b"\n" + record_bytes(two) + b"\n"
    assert [parse_record(line) for line in GOLDEN.read_bytes().splitlines()] == [one, two]


def test_a_consent_lasts_180_days() -> None:
    """It is valid from its signing, give or take the clocks, to its last second."""
    record = consent()
    end = NOW + 180 * 86400
    assert found(record) == found(record, now=end - 1) == "given"
    assert found(record, now=end) == "expired"
    assert found(record, now=NOW - CLOCK_SKEW_S) == "given"
    assert found(record, now=NOW - CLOCK_SKEW_S - 1) == "early"
    assert found(None) == "none"


@pytest.mark.parametrize(
    "asked",
    [{"study": "b" * 64}, {"site": "river"}, {"key": new_signing_key().public_key()}],
    ids=["study", "site", "key"],
)
def test_it_is_for_one_study_site_and_key(asked: dict[str, Any]) -> None:
    """A consent shown for anything else allows nothing."""
    assert found(consent(), **asked) == "invalid"


@pytest.mark.parametrize(
    "change",
    [{"expires_at": 2**39}, {"study": "b" * 64}, {"site": "river"}, {"given_at": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_record_is_invalid(change: dict[str, Any]) -> None:
    """Every field is under the signature."""
    changed = consent().model_copy(update=change)
    assert found(changed, study=changed.study, site=changed.site) == "invalid"


def test_a_withdrawal_cannot_be_made_of_a_consent() -> None:
    """A signature over the same payload for another purpose does not count."""
    taken_back = withdraw(KEY, study=STUDY, site=SITE, now=NOW)
    forged = taken_back.model_copy(update={"signature": sign(KEY, "consent", taken_back.payload())})
    assert found(taken_back) == "withdrawn"
    assert found(forged) == "invalid"


def test_the_latest_word_counts() -> None:
    """Given, withdrawn, given again, all in one second: each supersedes the one before only."""
    first = consent()
    no = withdraw(KEY, study=STUDY, site=SITE, now=NOW, earlier=first)
    again = consent(earlier=no)
    assert supersedes(no, first)
    assert supersedes(again, no)
    assert not supersedes(first, no)
    assert not supersedes(no, again)
    assert not supersedes(first, first)
    assert supersedes(withdraw(KEY, study=STUDY, site=SITE, now=NOW), first)


@pytest.mark.parametrize("word", ["none", "early", "expired", "withdrawn", "invalid"])
def test_only_a_given_consent_lets_work_through(word: Any) -> None:
    """Everything else ends in STR-208."""
    with pytest.raises(TrustError) as caught:
        require_given(word)
    assert caught.value.code == "STR-208"
    require_given("given")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 4000,
        b"{" * 5000,
        b'{"format":"stillroom-consent-2"}',
        record_bytes(consent()).replace(b'"site"', b'"more":1,"site"'),
        record_bytes(consent()).replace(str(NOW).encode(), b'"%d"' % NOW),
        record_bytes(consent()).replace(str(NOW).encode(), b"1e9"),
        record_bytes(consent()) + b" " * 4096,
        b"\xff\xfe",
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """What is not exactly a record ends in a code that quotes nothing."""
    with pytest.raises(ContractError) as caught:
        parse_record(data)
    assert caught.value.code == "STR-300"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 500), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_through(at: int, flip: int) -> None:
    """A record with any byte changed is refused or allows nothing."""
    data = bytearray(record_bytes(consent()))
    data[at % len(data)] ^= flip
    try:
        record = parse_record(bytes(data))
    except ContractError:
        return
    assert found(record) == "invalid"
