"""The server's certificate and keys, the CA, and the consortium's description."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import check_pair, load_certificate, load_key, load_signing_key
from stillroom.common.pki.names import server_names
from stillroom.server.doctor.examination import Examination
from stillroom.server.enrolment import load_consortium

SOON_DAYS = 7


def server_toml(exam: Examination) -> Finding:
    """Whether it can be read and every key of it means something."""
    registry = "with a registry" if exam.config.registry is not None else "without a registry"
    return ok(f"{exam.path} holds, {registry}.", told=f"holds, {registry}")


def private_keys(exam: Examination) -> Finding:
    """Whether this account alone can read them."""
    tls, keys = exam.config.tls, 1
    load_key(tls.private_key)
    if tls.ca_key is not None:
        load_key(tls.ca_key)
        keys += 1
    promises_log = False
    if exam.config.consortium is not None:
        with suppress(StillroomError):  # "consortium" says so
            promises_log = load_consortium(exam.config).log_key_hex is not None
    if promises_log:
        load_signing_key(exam.config.log_key)
        keys += 1
    return ok(f"{keys} private keys are this account's alone.", told=f"{keys} closed to others")


def authority(exam: Examination) -> Finding:
    """How long the CA lasts, and whether its key is here."""
    ca = load_certificate(exam.config.tls.ca)
    if exam.config.tls.ca_key is not None:
        check_pair(ca, load_key(exam.config.tls.ca_key))
    return dated(ca, exam.now, "The CA's certificate", "Found a new consortium in good time.", 90)


def certificate(exam: Examination) -> Finding:
    """Whether the CA issued it for this key, and how long it lasts."""
    tls = exam.config.tls
    shown = load_certificate(tls.certificate)
    check_pair(shown, load_key(tls.private_key))
    try:
        shown.verify_directly_issued_by(load_certificate(tls.ca))
    except (InvalidSignature, ValueError, TypeError):
        return failed(
            "The server's certificate was not issued by the consortium's CA.",
            "Make one with `stillroom-server renew-certificate`.",
            "STR-201",
            told="another issuer",
        )
    fix = "Run `stillroom-server renew-certificate` and start the server again."
    return dated(shown, exam.now, "The server's certificate", fix, SOON_DAYS)


def dated(shown: x509.Certificate, now: datetime, what: str, fix: str, soon: int) -> Finding:
    """What its dates mean. Pure."""
    end, start = shown.not_valid_after_utc, shown.not_valid_before_utc
    if now > end:
        return failed(f"{what} expired on {end:%Y-%m-%d}.", fix, "STR-201", told="expired")
    if now < start:
        return failed(
            f"{what} is not yet valid.", "Set this machine's clock.", "STR-201", told="early"
        )
    days = (end - now).days
    if days < soon:
        return warning(f"{what} ends in {days} days.", fix, "STR-201", f"{days} days", days=days)
    return ok(f"{what} is valid for {days} more days.", told=f"{days} days", days=days)


def consortium(exam: Examination) -> Finding:
    """Whether the description holds and names this CA."""
    if exam.config.consortium is None:
        return skipped("no consortium in server.toml")
    found = load_consortium(exam.config)
    if found.ca != load_certificate(exam.config.tls.ca):
        return failed(
            "The consortium's description names another CA than server.toml.",
            "Put back the ca.pem that `init` wrote.",
            "STR-201",
            told="another CA",
        )
    count = len(found.operator_keys)
    return ok(f"{found.name}, {count} operator(s).", told=f"{count} operator(s)")


def names(exam: Examination) -> Finding:
    """Whether the certificate names what sites dial."""
    known = server_names(load_certificate(exam.config.tls.certificate))
    dialled = () if exam.edge is None else exam.edge.names_dialled
    return names_finding(known, dialled, exam.config.edge_host)


def names_finding(known: Sequence[str], dialled: Sequence[str], edge_host: str) -> Finding:
    """What the two together mean; an address that is dialled cannot be seen here. Pure.

    Args:
        known: Names and addresses in the certificate.
        dialled: Names that somebody asked the edge for.
        edge_host: Where the edge listens.
    """
    fix = (
        "If sites dial it, make a certificate with every name and address that they use "
        "(`stillroom-server renew-certificate --host ...`), and start `serve` again."
    )
    if all(map(_is_loopback, known)) and not _is_loopback(edge_host):
        return failed(
            "The certificate names nothing that another machine could dial.",
            fix,
            "STR-201",
            told="names this machine alone",
        )
    missing = sorted(set(dialled) - set(known))
    if missing:
        return warning(
            f"Somebody dials {missing[0]}, which the server's certificate does not name.",
            fix,
            "STR-201",
            told=f"{len(missing)} names dialled that it has not",
        )
    return ok(f"The certificate names {', '.join(known)}.", told=f"{len(known)} names")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SETTINGS: Check[Examination] = Check("server.toml", server_toml)
CHECKS: tuple[Check[Examination], ...] = (
    Check("private keys", private_keys, ("server.toml",)),
    Check("CA", authority, ("server.toml",), unless=("clock",)),
    Check("certificate", certificate, ("private keys", "CA"), unless=("clock",)),
    Check("server names", names, ("certificate",)),
    Check("consortium", consortium, ("server.toml",), unless=("CA",)),
)
