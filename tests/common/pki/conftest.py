"""A consortium with one CA, one server and one site, at a fixed time."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Consortium:
    """Certificates and keys that belong together."""

    now: datetime
    ca: x509.Certificate
    ca_key: ec.EllipticCurvePrivateKey
    server: x509.Certificate
    server_key: ec.EllipticCurvePrivateKey
    site: x509.Certificate
    site_key: ec.EllipticCurvePrivateKey


@pytest.fixture(scope="session")
def consortium() -> Consortium:
    """Everything issued by the production functions."""
    ca, ca_key = make_ca("Example consortium", 365, NOW)
    server_key, site_key = new_key(), new_key()
    server = issue_server(ca, ca_key, server_key.public_key(), ["fl.example.org", "::1"], NOW)
    site = issue_site(ca, ca_key, site_key.public_key(), "north-clinic", NOW)
    return Consortium(NOW, ca, ca_key, server, server_key, site, site_key)
