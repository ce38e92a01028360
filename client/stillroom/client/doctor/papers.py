"""This site's keys, certificates and secrets: whose, for whom, until when, and who can read them."""

from datetime import datetime, timedelta

from cryptography import x509

from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check, Finding, failed, ok, warning
from stillroom.common.pki.files import (
    check_pair,
    load_certificate,
    load_key,
    load_signing_key,
    load_verifying_key,
)
from stillroom.common.pki.names import site_name
from stillroom.common.pki.verify import verify_site

SOON_DAYS = 7
"""Renewal begins 20 days before the end: so late, it has not worked for two weeks."""


def authority(exam: Examination) -> Finding:
    """The CA that this site trusts, against the one it compared when it enrolled."""
    ca = load_certificate(exam.config.tls.ca)
    if exam.config.consortium is None:
        return ok("Readable; there is no consortium.json to compare it with.", told="readable")
    if exam.consortium.ca != ca:
        return failed(
            "The CA's certificate is not the one of the consortium this site joined.",
            "Put back the ca.pem that enrolment wrote.",
            "STR-201",
            told="another CA than the consortium's",
        )
    return ok("The CA of the consortium this site joined.", told="the consortium's")


def private_keys(exam: Examination) -> Finding:
    """Whether both keys can be used, by this account alone."""
    load_key(exam.config.tls.private_key)
    if not exam.config.signing_key.exists():
        load_verifying_key(exam.config.signing_key)
        return warning(
            "The signing key is not here, only its public half.",
            "Nothing, where it is kept elsewhere on purpose: this courier vouches for nothing then.",
            told="no signing key here",
        )
    load_signing_key(exam.config.signing_key)
    return ok("Both private keys are this account's alone.", told="closed to others")


def runner_secret(exam: Examination) -> Finding:
    """What courier and runner know each other by."""
    exam.config.read_secret()
    return ok("Readable by this account alone.", told="closed to others")


def own_certificate(exam: Examination) -> Finding:
    """Whether any edge of this consortium would take it today."""
    certificate = load_certificate(exam.config.tls.certificate)
    wrong = out_of_date(certificate, exam.now)
    if wrong is not None:
        return wrong
    verify_site(certificate, load_certificate(exam.config.tls.ca), exam.now)
    days = (certificate.not_valid_after_utc - exam.now).days
    if days < SOON_DAYS:
        return warning(
            f"It expires in {days} days and has not been renewed.",
            "Let the courier run and reach the server; else ask the operator for an invitation.",
            "STR-201",
            told=f"{days} days left",
            days=days,
        )
    return ok(f"Valid for {days} more days; it renews itself.", told=f"{days} days left", days=days)


def out_of_date(certificate: x509.Certificate, now: datetime) -> Finding | None:
    """What is wrong with its dates; None where nothing is. Pure."""
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now > end:
        return failed(
            f"This site's certificate expired on {end:%Y-%m-%d}.",
            "Ask the operator for a new invitation and enrol again.",
            "STR-201",
            told="expired",
        )
    if now < start:
        late = start - now
        return failed(
            "This site's certificate is not yet valid: this machine's clock is at least "
            f"{late / timedelta(minutes=1):.0f} min behind.",
            "Set the clock and have NTP keep it.",
            "STR-201",
            told="not yet valid",
        )
    return None


def named_site(exam: Examination) -> Finding:
    """Whether certificate and site.toml mean the same site."""
    named = site_name(load_certificate(exam.config.tls.certificate))
    if named == exam.config.site:
        return ok(f"The certificate names {named}.", told="the same in both")
    return failed(
        f"The certificate names {named}; site.toml says {exam.config.site}.",
        f'Write site = "{named}" into site.toml, or put back this site\'s own certificate.',
        "STR-206",
        told="certificate and site.toml name different sites",
    )


def key_pair(exam: Examination) -> Finding:
    """Whether key and certificate were made for each other."""
    tls = exam.config.tls
    check_pair(load_certificate(tls.certificate), load_key(tls.private_key))
    return ok("The key belongs to the certificate.", told="they belong together")


CHECKS: tuple[Check[Examination], ...] = (
    Check("CA", authority, ("site.toml",), part="courier"),
    Check("private keys", private_keys, ("site.toml",), part="courier"),
    Check("runner secret", runner_secret, ("site.toml",)),
)
DATED: tuple[Check[Examination], ...] = (
    Check("own certificate", own_certificate, ("CA",), unless=("clock",), part="courier"),
    Check("site name", named_site, ("site.toml",), unless=("own certificate",), part="courier"),
    Check("key pair", key_pair, ("private keys",), part="courier"),
)
"""After the clock has been looked at."""
