"""Letting sites in, and renewing them: what the enrolment listener, the edge and the CLI share."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stillroom.common.consortium import Consortium, read_consortium
from stillroom.common.enrolment import (
    Enrol,
    KeyRequest,
    Kit,
    RenewAnswer,
    RenewQuestion,
    StatusAnswer,
    StatusQuestion,
)
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.pki.files import check_pair, load_certificate, load_key
from stillroom.common.pki.issue import BACKDATE, issue_site
from stillroom.common.pki.request import read_request
from stillroom.common.pki.verify import spki_sha256
from stillroom.server.config import ServerConfig
from stillroom.server.store.members import (
    ENROLLED,
    REQUESTED,
    Issued,
    Request,
    SiteRecord,
    not_invited,
)
from stillroom.server.store.registry import Registry
from stillroom.server.store.registry_file import Note

CERTIFICATE_DAYS = 30
RENEW_AFTER = 2 / 3
"""Of a certificate's life: day 20 of 30."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The consortium's CA: the certificate, and the key that certifies sites."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, config: ServerConfig) -> "Authority":
        """Read the CA named in server.toml.

        Raises:
            ConfigError: STR-102 when no CA key is configured, STR-101 when it cannot be read.
            TrustError: STR-202 readable by others, STR-203 not the CA's key.
        """
        if config.tls.ca_key is None:
            raise _not_configured("tls.ca_key")
        authority = cls(load_certificate(config.tls.ca), load_key(config.tls.ca_key))
        check_pair(authority.certificate, authority.key)
        return authority

    def issue(self, site: str, key: ec.EllipticCurvePublicKey, now: datetime) -> Issued:
        """A certificate for ``site``, valid for 30 days."""
        made = issue_site(self.certificate, self.key, key, site, now, days=CERTIFICATE_DAYS)
        return Issued(
            pem=made.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            sha256=made.fingerprint(hashes.SHA256()).hex(),
            not_after=made.not_valid_after_utc.timestamp(),
        )


def new_token() -> str:
    """A one-time token: 192 random bits, safe in a shell and in a URL."""
    return secrets.token_urlsafe(24)


def open_registry(config: ServerConfig, note: Note | None = None) -> Registry:
    """The registry named in server.toml; ``note`` writes what changes in it into the log.

    Raises:
        ConfigError: STR-102 none is named, STR-101 it cannot be opened.
    """
    if config.registry is None:
        raise _not_configured("registry")
    return Registry(config.registry, note=note)


def load_consortium(config: ServerConfig) -> Consortium:
    """The consortium description named in server.toml, checked.

    Raises:
        ConfigError: STR-102 none is named, STR-101 it cannot be read.
        TrustError: STR-207 its signatures do not hold.
    """
    if config.consortium is None:
        raise _not_configured("consortium")
    try:
        return read_consortium(config.consortium.read_bytes())
    except OSError as error:
        raise ConfigError(
            "The consortium's description cannot be read.",
            fix="Check `consortium` in server.toml.",
            code="STR-101",
        ) from error


def checked(keys: KeyRequest) -> Request:
    """A site's request for the registry, after proving that it holds both keys.

    Raises:
        TrustError: STR-201, STR-207.
    """
    key, short = keys.check()
    return Request(keys.csr, spki_sha256(key), keys.signing_key, short)


def receive(registry: Registry, enrol: Enrol, now: float) -> StatusAnswer:
    """Take a request in, against its token.

    Raises:
        TrustError: STR-201, STR-207 the keys; STR-211 the token.
    """
    # The keys first: a mistake in the request must not cost the hospital its token.
    name = registry.request(enrol.token, checked(enrol.keys), now)
    return StatusAnswer(status="requested", site=name)


def status(registry: Registry, question: StatusQuestion, now: float) -> StatusAnswer:
    """Where the asking site's enrolment stands.

    Raises:
        ContractError: STR-300, an old question.
        TrustError: STR-207 not signed by its key; STR-211 no open request or enrolled site has it.
    """
    question.check(now)
    site = registry.site_by_signing_key(question.signing_key)
    if site is None or site.status not in {REQUESTED, ENROLLED}:
        raise not_invited()
    if site.status == ENROLLED:
        return StatusAnswer(status="enrolled", site=site.name, certificate=site.certificate_pem)
    return StatusAnswer(status="requested", site=site.name)


def approve(registry: Registry, authority: Authority, site: SiteRecord, now: datetime) -> Issued:
    """Certify a site's request and let it in, in one step.

    Raises:
        ConfigError: STR-108, it awaits no approval.
    """
    if site.status != REQUESTED or site.request_pem is None or site.request_fingerprint is None:
        raise ConfigError(
            f"{site.name} awaits no approval; it is {site.status}.",
            fix="See `site list`.",
            code="STR-108",
        )
    issued = authority.issue(site.name, read_request(site.request_pem), now)
    registry.enrol(site.name, site.request_fingerprint, issued, now.timestamp())
    return issued


def renew(
    registry: Registry, authority: Authority, name: str, question: RenewQuestion, now: datetime
) -> RenewAnswer:
    """A newer certificate for the same key, from day 20 or when the operator asked for it.

    Raises:
        TrustError: STR-201 the request; STR-203 it is for another key than the enrolled one.
        ConfigError: STR-108, the site is not enrolled.
    """
    site, key = registry.site(name), read_request(question.csr)
    if site.status != ENROLLED:
        raise ConfigError(f"{name} is {site.status}.", fix="See `site list`.", code="STR-108")
    if spki_sha256(key) != site.spki_sha256:
        raise TrustError(
            "A certificate is renewed for the enrolled key only.",
            fix="For a new key, revoke the site and enrol it again.",
            code="STR-203",
        )
    if not (site.renew_now or is_due(site, now)):
        return RenewAnswer()
    issued = authority.issue(name, key, now)
    registry.renewed(name, issued, now.timestamp())
    return RenewAnswer(certificate=issued.pem)


def is_due(site: SiteRecord, now: datetime) -> bool:
    """True from two thirds of the present certificate's life on. Pure."""
    if site.certificate_pem is None:
        return False
    present = x509.load_pem_x509_certificate(site.certificate_pem.encode("ascii"))
    begin, end = present.not_valid_before_utc + BACKDATE, present.not_valid_after_utc
    return now >= begin + (end - begin) * RENEW_AFTER


def enrol_by_file(
    registry: Registry, authority: Authority, site: str, keys: KeyRequest, now: datetime
) -> Issued:
    """Enrol a site whose request came as a file and was compared; needs no token.

    Raises:
        TrustError: STR-201, STR-207 the request; STR-211 its keys belong to another site.
        ConfigError: STR-108, the site is enrolled already.
    """
    token, request = new_token(), checked(keys)
    registry.invite(site, token, now.timestamp())
    registry.request(token, request, now.timestamp())
    return approve(registry, authority, registry.site(site), now)


def kit(config: ServerConfig, site: str, issued: Issued) -> Kit:
    """What goes back to a site enrolled by file."""
    raw = load_consortium(config).raw.decode("utf-8")
    return Kit(site=site, certificate=issued.pem, consortium=raw)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that may be read by everybody, refusing to overwrite.

    Raises:
        ConfigError: STR-107.
    """
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written, or exists already.", fix="Name a new file.", code="STR-107"
        ) from error


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


def _not_configured(key: str) -> ConfigError:
    return ConfigError(
        f"server.toml does not name `{key}`, so this server enrols no sites.",
        fix="Make the consortium with `stillroom-server init`, or add the key.",
        code="STR-102",
    )
