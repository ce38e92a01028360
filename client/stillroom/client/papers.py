"""This site's papers for the edge: what it shows, and whether they are any good today."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from stillroom.common.errors import TrustError
from stillroom.common.pki.files import load_certificate
from stillroom.common.pki.issue import BACKDATE
from stillroom.common.pki.verify import verify_site


class Papers(Protocol):
    """Three files; the second is replaced when the certificate is renewed."""

    @property
    def ca(self) -> Path:
        """The consortium's CA certificate."""
        ...

    @property
    def certificate(self) -> Path:
        """This site's certificate."""
        ...

    @property
    def private_key(self) -> Path:
        """Its key."""
        ...


def client_context(papers: Papers) -> ssl.SSLContext:
    """TLS 1.3, the consortium's CA and no other, and this site's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(papers.ca)
    context.load_cert_chain(papers.certificate, papers.private_key)
    return context


def check_papers(papers: Papers) -> None:
    """Refuse to go on under a certificate that no edge of this consortium would accept.

    The edge drops such a connection without a word (asyncio sends no TLS alert), which looks like a
    server that is away: what can be known here is said here.

    Raises:
        TrustError: STR-201.
        ConfigError: STR-101, a file cannot be read.
    """
    certificate, now = load_certificate(papers.certificate), datetime.now(UTC)
    end = certificate.not_valid_after_utc
    if now > end:
        raise TrustError(
            f"This site's certificate expired on {end:%Y-%m-%d}.",
            fix="Ask the operator for a new invitation and enrol again; check the clock first.",
            code="STR-201",
        )
    verify_site(certificate, load_certificate(papers.ca), now)


def issued_at(papers: Papers) -> datetime:
    """When the present certificate was issued, aware, UTC."""
    return load_certificate(papers.certificate).not_valid_before_utc + BACKDATE
