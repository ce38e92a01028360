"""Who a registry knows: sites with what they asked for and were given, and operators. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from stillroom.common.errors import TrustError
from stillroom.common.log_entries import UNSTAMPED, Member

INVITED, REQUESTED, ENROLLED, REVOKED = "invited", "requested", "enrolled", "revoked"
INVITATION_HOURS = 72

Act = Literal["invited", "approved", "renewed", "revoked", "left"]
OUT = frozenset({"revoked", "left"})
"""After one of these a site is none of ours any more."""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """One site as the registry knows it. Times are seconds since the epoch.

    Attributes:
        name: As in its certificate.
        status: invited, requested, enrolled or revoked.
        token_expires: End of its invitation; None once the token is spent.
        request_pem: What it asked to be certified.
        request_fingerprint: What is compared by telephone, 16 hex digits.
        spki_sha256: Of the key it was enrolled with; the same for every certificate it gets.
        signing_key: Ed25519 public key in hex, for consents and cosignatures.
        certificate_pem: The newest certificate.
        certificate_sha256: Its fingerprint.
        not_after: Its end.
        renew_now: 1 when the operator wants a new certificate to be taken at once.
        changed_at: Last change of this row.
    """

    name: str
    status: str
    token_expires: float | None
    request_pem: str | None
    request_fingerprint: str | None
    spki_sha256: str | None
    signing_key: str | None
    certificate_pem: str | None
    certificate_sha256: str | None
    not_after: float | None
    renew_now: int
    changed_at: float


@dataclass(frozen=True, slots=True)
class Request:
    """A site's request, already checked. ``fingerprint`` as ``short_fingerprint`` makes it."""

    pem: str
    spki_sha256: str
    signing_key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued for a site."""

    pem: str
    sha256: str
    not_after: float


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    """An operator whose key may sign studies."""

    key_id: str
    name: str
    public_key: str


def member_of(site: SiteRecord, act: Act) -> Member:
    """The log's entry about a site, as it is after ``act``."""
    return Member(
        time=UNSTAMPED,
        site=site.name,
        act=act,
        certificate_sha256=site.certificate_sha256 if act in {"approved", "renewed"} else None,
        signing_key=site.signing_key if act in {"approved", "renewed"} else None,
    )


def token_digest(token: str) -> str:
    """What is kept of a token. It has 192 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def not_invited() -> TrustError:
    """The one answer for an unknown, expired or spent token."""
    return TrustError(
        "The invitation is unknown, has expired or was used.",
        fix="Ask the operator for a new one (`stillroom-server site invite`).",
        code="STR-211",
    )
