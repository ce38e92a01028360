"""Every step of the check has somebody who tries to get past it."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from stillroom.common.errors import TrustError
from stillroom.common.pki.issue import issue_site, make_ca, new_key
from stillroom.common.pki.names import site_name
from stillroom.common.pki.verify import SiteIdentity, flower_public_key, spki_sha256, verify_site

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SITE = x509.UniformResourceIdentifier("urn:stillroom:site:north-clinic")


def usage(*, digital_signature: bool = True, key_cert_sign: bool = False) -> x509.KeyUsage:
    rest = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False
    )  # fmt: skip
    return x509.KeyUsage(digital_signature=digital_signature, key_cert_sign=key_cert_sign, **rest)


def forge(consortium: Any, **change: Any) -> x509.Certificate:
    """A leaf that our own CA key signed, but with whatever a test wants to be wrong."""
    key = change.get("key") or new_key()
    extensions = {
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
        "usage": (usage(), True),
        "purpose": (x509.ExtendedKeyUsage([CLIENT]), False),
        "san": (x509.SubjectAlternativeName([SITE]), False),
        "extra": None,
    } | {name: value for name, value in change.items() if name not in ("key", "digest")}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(consortium.ca.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(consortium.now - timedelta(days=1))
        .not_valid_after(consortium.now + timedelta(days=1))
    )
    for item in extensions.values():
        if item is not None:
            builder = builder.add_extension(item[0], critical=item[1])
    return builder.sign(consortium.ca_key, change.get("digest", hashes.SHA384()))


def san(*names: x509.GeneralName) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName(names), False


def refused(certificate: x509.Certificate, consortium: Any, why: str, **change: Any) -> None:
    ca, now = change.get("ca", consortium.ca), change.get("now", consortium.now)
    with pytest.raises(TrustError, match=why) as caught:
        verify_site(certificate, ca, now)
    assert caught.value.code == "STR-201"
    assert caught.value.exit_status == 3


def test_a_good_certificate_proves_its_site(consortium: Any) -> None:
    """The identity carries name, both fingerprints and the end of validity."""
    der = consortium.site.public_bytes(serialization.Encoding.DER)
    key = consortium.site_key.public_key()

    assert verify_site(consortium.site, consortium.ca, consortium.now) == SiteIdentity(
        name="north-clinic",
        public_key_spki_sha256=spki_sha256(key),
        certificate_sha256=hashlib.sha256(der).hexdigest(),
        not_after=consortium.now + timedelta(days=30),
    )


def test_the_forger_can_make_a_good_one(consortium: Any) -> None:
    """Unless a test changes something, a forged certificate passes: the refusals are for cause."""
    assert verify_site(forge(consortium), consortium.ca, consortium.now).name == "north-clinic"


def test_renewal_keeps_the_key_fingerprint(consortium: Any) -> None:
    """A renewed certificate is another certificate of the same key."""
    renewed = issue_site(
        consortium.ca, consortium.ca_key, consortium.site_key.public_key(), "north-clinic",
        consortium.now + timedelta(days=20),
    )  # fmt: skip
    first = verify_site(consortium.site, consortium.ca, consortium.now)
    second = verify_site(renewed, consortium.ca, consortium.now + timedelta(days=21))

    assert first.public_key_spki_sha256 == second.public_key_spki_sha256
    assert first.certificate_sha256 != second.certificate_sha256


def test_step_1_another_ca_of_the_same_name(consortium: Any) -> None:
    """Names prove nothing: a CA that copies ours cannot copy its key."""
    other, other_key = make_ca("Example consortium", 365, consortium.now)
    foreign = issue_site(other, other_key, new_key().public_key(), "north-clinic", consortium.now)

    refused(foreign, consortium, "not issued by this consortium")


def test_step_1_another_ca_of_another_name(consortium: Any) -> None:
    """A certificate of somebody else's consortium is refused."""
    other, other_key = make_ca("Someone", 365, consortium.now)
    foreign = issue_site(other, other_key, new_key().public_key(), "north-clinic", consortium.now)

    refused(foreign, consortium, "not issued by this consortium")


@pytest.mark.parametrize("position", [-1, -30, 120])
def test_step_1_tampered_certificate(consortium: Any, position: int) -> None:
    """One changed byte, in the signature or in what it covers, is found."""
    der = bytearray(consortium.site.public_bytes(serialization.Encoding.DER))
    der[position] ^= 1

    refused(x509.load_der_x509_certificate(bytes(der)), consortium, "not issued by")


def test_step_1_a_site_is_not_a_ca(consortium: Any) -> None:
    """A site cannot issue certificates for others, whatever the caller passes as the CA."""
    refused(consortium.site, consortium, "not a CA certificate", ca=consortium.site)


def test_step_1_a_ca_with_a_weak_key(consortium: Any) -> None:
    """A CA on another curve is not one of ours."""
    key = ec.generate_private_key(ec.SECP256R1())
    weak = forge(
        consortium, key=key, usage=(usage(key_cert_sign=True), True),
        constraints=(x509.BasicConstraints(ca=True, path_length=0), True),
    )  # fmt: skip

    refused(consortium.site, consortium, "CA that does not hold a P-384", ca=weak)


def test_step_2_a_weaker_digest(consortium: Any) -> None:
    """Even our own CA's signature counts only with SHA-384."""
    refused(forge(consortium, digest=hashes.SHA256()), consortium, "SHA-384")


@pytest.mark.parametrize(
    ("days", "why"), [(-1, "is not yet valid"), (31, "has expired"), (400, "has expired")]
)
def test_step_3_validity(consortium: Any, days: int, why: str) -> None:
    """Too early and too late are refused, and the reader is sent to the clock."""
    refused(consortium.site, consortium, why, now=consortium.now + timedelta(days=days))


def test_step_3_validity_of_the_ca(consortium: Any) -> None:
    """A CA that has ended takes its certificates with it."""
    brief, brief_key = make_ca("Brief", 1, consortium.now)
    early = consortium.now - timedelta(days=1)
    leaf = issue_site(brief, brief_key, new_key().public_key(), "s1", early, days=2)

    refused(leaf, consortium, "certificate's CA is not yet valid", ca=brief, now=early)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"purpose": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)}, "alone"),
        ({"purpose": (x509.ExtendedKeyUsage([CLIENT, ExtendedKeyUsageOID.SERVER_AUTH]), False)},
         "alone"),
        ({"purpose": None}, "alone"),
        ({"usage": None}, "may not sign"),
        ({"usage": (usage(key_cert_sign=True), True)}, "may not sign"),
        ({"usage": (usage(digital_signature=False), True)}, "may not sign"),
        ({"constraints": None}, "may be, a CA"),
        ({"constraints": (x509.BasicConstraints(ca=True, path_length=0), True)}, "may be, a CA"),
        ({"extra": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)},
         "not understood"),
    ],
)  # fmt: skip
def test_step_4_usage(consortium: Any, change: dict[str, Any], why: str) -> None:
    """A certificate for anything but client handshakes is refused."""
    refused(forge(consortium, **change), consortium, why)


def test_step_4_a_server_certificate_is_not_a_site(consortium: Any) -> None:
    """The server's own certificate cannot play a hospital."""
    refused(consortium.server, consortium, "alone")
    with pytest.raises(TrustError, match="belongs to a server"):
        site_name(consortium.server)


def test_step_4_unreadable_extensions(consortium: Any) -> None:
    """Extensions that do not parse are a refusal, not a crash."""
    oid = x509.ObjectIdentifier("2.5.29.17")
    broken = (x509.UnrecognizedExtension(oid, b"not DER"), False)

    refused(forge(consortium, san=broken), consortium, "cannot be read")
    with pytest.raises(TrustError, match="no readable"):
        site_name(forge(consortium, san=broken))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "no readable"),
        (san(SITE, x509.UniformResourceIdentifier("urn:stillroom:site:south")), "2 names"),
        (san(SITE, x509.DNSName("north.example.org")), "2 names"),
        (san(SITE, x509.UniformResourceIdentifier("urn:stillroom:server")), "belongs to a server"),
        (san(x509.DNSName("north.example.org")), "names a host"),
        (san(x509.UniformResourceIdentifier("urn:stillroom:site:")), "something other"),
        (san(x509.UniformResourceIdentifier("urn:stillroom:site:North")), "something other"),
        (san(x509.UniformResourceIdentifier("urn:other:site:north")), "something other"),
        (san(x509.UniformResourceIdentifier("urn:stillroom:site:a%20b")), "something other"),
    ],
)  # fmt: skip
def test_step_5_names(consortium: Any, change: Any, why: str) -> None:
    """Absent, ambiguous and foreign names are refused."""
    refused(forge(consortium, san=change), consortium, why)


def test_step_6_another_curve(consortium: Any) -> None:
    """A P-256 key that our CA certified by mistake still does not pass."""
    key = ec.generate_private_key(ec.SECP256R1())

    refused(forge(consortium, key=key), consortium, "P-384")


def test_refusals_repeat_nothing_a_stranger_wrote(consortium: Any) -> None:
    """A certificate's own strings cannot reach a log through the refusal."""
    evil = forge(consortium, san=san(x509.UniformResourceIdentifier("urn:<b>patient")))

    with pytest.raises(TrustError) as caught:
        verify_site(evil, consortium.ca, consortium.now)

    assert "patient" not in str(caught.value)


def test_flower_reads_the_same_key(consortium: Any) -> None:
    """Relied on by the edge: Flower's header holds exactly these bytes."""
    key = consortium.site_key.public_key()

    assert flower_public_key(key) == public_key_to_bytes(key)
