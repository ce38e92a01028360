"""The description a site pins: who signed it, and what it is tied to."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.common.canonical import canonical_bytes
from stillroom.common.consortium import (
    fingerprint,
    grouped,
    make_consortium,
    read_consortium,
    ungrouped,
)
from stillroom.common.errors import StillroomError
from stillroom.common.pki.issue import make_ca, new_key
from stillroom.common.pki.request import make_request, read_request, short_fingerprint
from stillroom.common.signing import key_id, new_signing_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CA, CA_KEY = make_ca("Example", 3650, NOW)
OPERATOR = new_signing_key()
RAW = make_consortium("Example", CA, CA_KEY, {"first": OPERATOR.public_key()}, OPERATOR, NOW)


def code_of(raw: bytes, **options: Any) -> str:
    with pytest.raises(StillroomError) as caught:
        read_consortium(raw, **options)
    return caught.value.code


def test_read_back() -> None:
    """What was made is read, and its operator is found by key id alone."""
    read = read_consortium(RAW, ca_sha256=fingerprint(CA))

    assert (read.name, read.ca, read.issued_at) == ("Example", CA, NOW)
    assert read.operator(key_id(OPERATOR)) == OPERATOR.public_key()
    with pytest.raises(StillroomError) as caught:
        read.operator("0" * 16)
    assert caught.value.code == "STR-209"


def test_other_ca_than_expected() -> None:
    """The fingerprint a person compared decides, before anything else is looked at."""
    assert code_of(RAW, ca_sha256="0" * 64) == "STR-212"


@pytest.mark.parametrize("field", ["name", "issued_at", "operators", "signature", "ca_signature"])
def test_any_change_is_refused(field: str) -> None:
    """Every field is under both signatures."""
    document = json.loads(RAW)
    other = make_consortium(
        "Other", CA, CA_KEY, {"second": (key := new_signing_key()).public_key()}, key, NOW
    )
    value = document["issued_at"] + 1 if field == "issued_at" else json.loads(other)[field]
    assert code_of(canonical_bytes({**document, field: value})) == "STR-207"


def test_operators_are_tied_to_the_ca() -> None:
    """Somebody with an operator key of their own cannot speak for another's CA."""
    key = new_signing_key()
    forged = make_consortium("Example", CA, new_key(), {"x": key.public_key()}, key, NOW)
    assert code_of(forged, ca_sha256=fingerprint(CA)) == "STR-207"


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_hostile_bytes(raw: bytes) -> None:
    """Anything else is an expected refusal."""
    with pytest.raises(StillroomError):
        read_consortium(raw)


def test_groups_are_read_as_they_are_typed() -> None:
    """Spaces, colons and capitals do not matter; missing digits do."""
    text = fingerprint(CA)
    assert ungrouped(grouped(text).upper().replace(" ", ":")) == text
    with pytest.raises(StillroomError):
        ungrouped(text[:-1])


def csr(key: Any) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_request_proves_its_key() -> None:
    """A P-384 request gives its key; the short fingerprint names both keys."""
    key, signing = new_key(), new_signing_key().public_key()
    read = read_request(make_request(key))

    assert read.public_numbers() == key.public_key().public_numbers()
    assert len(short_fingerprint(read, signing)) == 16
    assert short_fingerprint(read, signing) != short_fingerprint(read, OPERATOR.public_key())


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505
    ],
)
def test_weak_keys_are_not_certified(key: Any) -> None:
    """P-256 and RSA-1024 are refused at the request."""
    with pytest.raises(StillroomError) as caught:
        read_request(csr(key))
    assert caught.value.code == "STR-201"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_hostile_requests(text: str) -> None:
    """Anything else is an expected refusal."""
    with pytest.raises(StillroomError):
        read_request("-----BEGIN CERTIFICATE REQUEST-----\n" + text)


def test_foreign_signature_on_a_request() -> None:
    """A request signed by another key than the one it names is refused."""
    der = x509.load_pem_x509_csr(make_request(new_key()).encode()).public_bytes(
        serialization.Encoding.DER
    )
    broken = bytearray(der)
    broken[-3] ^= 1
    try:
        pem = x509.load_der_x509_csr(bytes(broken)).public_bytes(serialization.Encoding.PEM)
    except ValueError:
        return
    with pytest.raises(StillroomError):
        read_request(pem.decode())
