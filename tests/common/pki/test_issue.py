"""What the issued certificates say, byte for byte where it matters."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key
from stillroom.common.pki.names import site_name


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


def test_ca_may_sign_leaves_and_nothing_deeper(consortium: Any) -> None:
    """The CA is marked as one, critically, with room for no intermediate."""
    constraints = extension(consortium.ca, x509.BasicConstraints)
    usage = extension(consortium.ca, x509.KeyUsage)

    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert extension(consortium.ca, x509.SubjectKeyIdentifier)


def test_site_certificate_is_for_one_purpose(consortium: Any) -> None:
    """A site's certificate signs client handshakes, names one site and points at its CA."""
    site = consortium.site
    authority = extension(site, x509.AuthorityKeyIdentifier).value.key_identifier
    identifier = extension(consortium.ca, x509.SubjectKeyIdentifier).value.digest

    assert list(extension(site, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extension(site, x509.KeyUsage).value.digital_signature
    assert authority == identifier
    assert site_name(site) == "north-clinic"
    assert site.version is x509.Version.v3
    assert site.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA384
    assert isinstance(new_key().curve, ec.SECP384R1)


def test_structure_is_the_same_every_time(consortium: Any) -> None:
    """Two certificates of one kind differ in names, keys, serial and times only."""
    other = issue_site(
        consortium.ca, consortium.ca_key, new_key().public_key(), "south", consortium.now
    )

    assert [item.oid for item in other.extensions] == [
        item.oid for item in consortium.site.extensions
    ]
    assert other.serial_number != consortium.site.serial_number


def test_server_certificate_names_hosts_and_addresses(consortium: Any) -> None:
    """Sites may dial the server by name or by address."""
    names = extension(consortium.server, x509.SubjectAlternativeName).value
    usage = list(extension(consortium.server, x509.ExtendedKeyUsage).value)

    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:stillroom:server"]
    assert usage == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_validity_starts_early_and_ends_with_the_ca(consortium: Any) -> None:
    """A slow clock is forgiven five minutes; no leaf outlives its CA."""
    long = issue_site(
        consortium.ca, consortium.ca_key, new_key().public_key(), "s1", consortium.now, days=4000
    )

    assert consortium.site.not_valid_before_utc == consortium.now - timedelta(minutes=5)
    assert consortium.site.not_valid_after_utc == consortium.now + timedelta(days=30)
    assert long.not_valid_after_utc == consortium.ca.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "x", "North", "9a", "a_b", "a" * 32, "ab\n", "a/b", "étage"])
def test_bad_site_names_are_refused(consortium: Any, name: str) -> None:
    """A name outside the pattern never reaches a certificate."""
    with pytest.raises(ConfigError, match="2 to 31"):
        issue_site(consortium.ca, consortium.ca_key, new_key().public_key(), name, consortium.now)


@pytest.mark.parametrize(
    "hosts", [[], [""], ["*.example.org"], ["https://x"], ["a:443"], ["a..b"], ["a" * 254]]
)
def test_bad_hosts_are_refused(consortium: Any, hosts: list[str]) -> None:
    """No wildcard, no scheme, no port, and at least one host."""
    with pytest.raises(ConfigError):
        issue_server(
            consortium.ca, consortium.ca_key, new_key().public_key(), hosts, consortium.now
        )


def test_wrong_ca_key_is_found_at_issue(consortium: Any) -> None:
    """A certificate that nobody would accept is never handed out."""
    with pytest.raises(TrustError, match="does not belong") as caught:
        issue_site(consortium.ca, new_key(), new_key().public_key(), "s1", consortium.now)

    assert caught.value.code == "STR-203"


def test_expired_ca_issues_nothing(consortium: Any) -> None:
    """The operator learns it from the error, not from refused sites."""
    later = consortium.now + timedelta(days=366)

    with pytest.raises(TrustError, match="expired"):
        issue_site(consortium.ca, consortium.ca_key, new_key().public_key(), "s1", later)


def test_only_p384_keys_are_certified(consortium: Any) -> None:
    """A weaker curve is refused before anything is signed."""
    weak = ec.generate_private_key(ec.SECP256R1()).public_key()

    with pytest.raises(TrustError, match="P-384"):
        issue_site(consortium.ca, consortium.ca_key, weak, "s1", consortium.now)


def test_time_without_a_zone_is_a_programming_mistake() -> None:
    """A naive time would silently be read as UTC."""
    with pytest.raises(ValueError, match="time zone"):
        make_ca("x", 1, datetime(2026, 3, 1))  # noqa: DTZ001 - the mistake under test
