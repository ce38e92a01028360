"""Making keys and certificates: P-384, ECDSA with SHA-384, X.509 v3 (RFC 5280). Pure, no I/O.

Every certificate of one kind has the same extensions in the same order; only serial, names,
keys and times differ. The CA signs leaves directly (path length 0): there are no intermediates.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stillroom.common.errors import TrustError
from stillroom.common.pki.names import server_san, site_san

# Clocks of hospitals and of the server differ by seconds to minutes. A certificate that starts
# at the issuer's "now" would be refused as not yet valid by every machine that runs behind.
BACKDATE = timedelta(minutes=5)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-384 key, which is also what Flower expects of a node key."""
    return ec.generate_private_key(ec.SECP384R1())


def make_ca(
    name: str, days: int, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed CA certificate and its key.

    Args:
        name: Common name, 1 to 64 characters, for human readers.
        days: Validity after ``now``.
        now: Aware time of issue.
    """
    key = new_key()
    subject = _subject(name)
    builder = _builder(subject, subject, key.public_key(), now, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(ca=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    return builder.sign(key, hashes.SHA384()), key


def issue_server(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    now: datetime,
    *,
    days: int = 90,
) -> x509.Certificate:
    """A certificate for the server that sites dial.

    Args:
        ca: Issuer.
        ca_key: The issuer's key.
        public_key: The server's P-384 key.
        hosts: DNS names or IP addresses, at least one; the first is the common name.
        now: Aware time of issue.
        days: Validity after ``now``; never beyond the CA's own.

    Raises:
        ConfigError: STR-100. A host is neither a DNS name nor an address.
        TrustError: STR-203 when ``ca_key`` is not the CA's; STR-201 when the CA has expired.
    """
    san = server_san(hosts)
    leaf = _leaf(ca, public_key, hosts[0][:64], now, days)
    return _finish(leaf, ca, ca_key, san, ExtendedKeyUsageOID.SERVER_AUTH)


def issue_site(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public_key: ec.EllipticCurvePublicKey,
    site: str,
    now: datetime,
    *,
    days: int = 30,
) -> x509.Certificate:
    """A certificate for one site: TLS client certificate and Flower node key in one.

    Args:
        ca: Issuer.
        ca_key: The issuer's key.
        public_key: The site's P-384 key, made at the site.
        site: Name matching ``names.SITE_PATTERN``.
        now: Aware time of issue.
        days: Validity after ``now``; never beyond the CA's own.

    Raises:
        ConfigError: STR-100. ``site`` is not a valid name.
        TrustError: STR-203 when ``ca_key`` is not the CA's; STR-201 when the CA has expired.
    """
    san = site_san(site)
    leaf = _leaf(ca, public_key, site, now, days)
    return _finish(leaf, ca, ca_key, san, ExtendedKeyUsageOID.CLIENT_AUTH)


def _leaf(
    ca: x509.Certificate,
    public_key: ec.EllipticCurvePublicKey,
    common_name: str,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    if not isinstance(public_key.curve, ec.SECP384R1):
        raise TrustError(
            "The key to certify is not a P-384 key.",
            fix="Make a new key with this release and ask again.",
            code="STR-201",
        )
    if now >= ca.not_valid_after_utc:
        raise TrustError(
            "The consortium's CA certificate has expired.",
            fix="Make a new CA and enrol every site again.",
            code="STR-201",
        )
    # A leaf that outlives its CA would be refused without a reason its holder could see.
    end = min(now + timedelta(days=days), ca.not_valid_after_utc)
    builder = _builder(_subject(common_name), ca.subject, public_key, now, end)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return builder.add_extension(identifier, critical=False)


def _finish(
    builder: x509.CertificateBuilder,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    san: x509.SubjectAlternativeName,
    usage: x509.ObjectIdentifier,
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    builder = builder.add_extension(_key_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(san, critical=False)
    builder = builder.add_extension(authority, critical=False)
    certificate = builder.sign(ca_key, hashes.SHA384())
    try:
        # The wrong CA key would give a certificate that every peer refuses; find out here.
        certificate.verify_directly_issued_by(ca)
    except InvalidSignature as error:
        raise TrustError(
            "The CA's key does not belong to the CA's certificate.",
            fix="Give the two files that were made together.",
            code="STR-203",
        ) from error
    return certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    if now.tzinfo is None:
        raise ValueError("now must carry a time zone")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - BACKDATE).astimezone(UTC).replace(microsecond=0))
        .not_valid_after(end.astimezone(UTC).replace(microsecond=0))
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
