"""What the way to the server means: one small function a question. Pure but for the examination."""

from cryptography import x509
from cryptography.x509.oid import NameOID

from stillroom.client.compatibility import UPGRADE_REQUIRED, explained
from stillroom.client.doctor.examination import Examination
from stillroom.client.doctor.line import LineSeen
from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.versions import About, mismatch, own_version, read_version

SKEW_WARN_S, SKEW_MOST_S = 30.0, 240.0
"""Flower refuses a request whose timestamp is more than five minutes old, the wait for it included."""
ELSEWHERE_S = 90.0
"""A courier that was heard within this time and is not here is somewhere else."""
OURS_S = 30.0
"""A courier that beat here so shortly before the server last heard one is that one."""
NOT_IN = {
    "revoked": (
        "This site was revoked.",
        "Ask the operator why; joining again needs an invitation.",
    ),
    "not-enrolled": (
        "The server does not know this site.",
        "Ask the operator whether this site is enrolled at this very server.",
    ),
    "other-key": (
        "The server knows this site with another key.",
        "Put back the key and certificate that were enrolled last, or ask for a new invitation.",
    ),
    "expired": (
        "The server says that this site's certificate has expired.",
        "Ask the operator for a new invitation and enrol again.",
    ),
}


def firewall_rule(seen: LineSeen) -> str:
    """The sentence to send to whoever keeps the firewall."""
    host, port = seen.hop
    to = ", ".join(seen.addresses) or host
    return f"allow outbound TCP from this machine to {host} ({to}) port {port}"


def proxy_setting(seen: LineSeen) -> Finding:
    """Whether the environment names a proxy, and one that can be used."""
    if seen.proxy_problem is not None:
        error = seen.proxy_problem
        return failed(error.what, error.fix, error.code, told="unsupported kind of proxy")
    if seen.proxy is None:
        return ok("No proxy is set; the server is dialled directly.", told="none is set")
    login = "with" if seen.proxy_login else "without"
    return ok(f"{seen.proxy}, {login} a user name.", told=f"one is set, {login} a user name")


def name(seen: LineSeen) -> Finding:
    """Whether the name of the next hop stands for an address."""
    host, _ = seen.hop
    if not seen.addresses:
        return failed(
            f"The name {host} stands for no address: {seen.name_error}.",
            "Check `server` in site.toml (or HTTPS_PROXY) and this machine's DNS servers.",
            "STR-504",
            told="the name stands for no address",
        )
    found = ", ".join(seen.addresses)
    return ok(f"{host} is {found}.", told=f"{len(seen.addresses)} address(es)")


def route(seen: LineSeen) -> Finding:
    """Whether the next hop answers at all."""
    host, port = seen.hop
    if seen.connected:
        return ok(f"{host} port {port} answers.", told="answers")
    why = sorted(set(seen.connect_errors.values()))
    silent = "timed out" in why or "No route to host" in why
    reason = "no answer: a firewall drops it" if silent else f"{'; '.join(why)}"
    fix = (
        f"Ask for this rule: {firewall_rule(seen)}."
        if silent or "refused" not in reason
        else "Ask the operator whether the server runs and on which port; else ask for this rule: "
        f"{firewall_rule(seen)}."
    )
    return failed(
        f"{host} port {port} cannot be reached: {reason}.", fix, "STR-504", told=", ".join(why)
    )


def tunnel(seen: LineSeen) -> Finding:
    """What the proxy says to CONNECT."""
    if seen.proxy is None:
        return skipped("no proxy is used")
    status = seen.tunnel
    if status == 200:
        return ok("The proxy opens a tunnel to the server.", told="opened")
    told = f"status {status}" if status else "no answer in HTTP"
    if status in {401, 407}:
        given = "did not accept the user name or password" if seen.proxy_login else (
            "wants a user name and password"
        )  # fmt: skip
        fix = "Set HTTPS_PROXY=http://user:password@proxy:port, percent-encoded, for the courier."
        return failed(f"The proxy {given} ({status}).", fix, "STR-506", told=told)
    if status is not None and status >= 500:
        return failed(
            f"The proxy cannot reach {seen.host} port {seen.port} ({status}).",
            "Ask the proxy's keeper to allow it, and the operator whether the server runs.",
            "STR-504",
            told=told,
        )
    return failed(
        f"The proxy refuses CONNECT to {seen.host} port {seen.port} ({told}).",
        f"Ask the proxy's keeper to allow CONNECT to {seen.host}:{seen.port}, without inspection.",
        "STR-506",
        told=told,
    )


def inspection(seen: LineSeen) -> Finding:
    """Who is at the other end."""
    if seen.handshake or seen.shown is None:
        return failed(
            f"There was no TLS with {seen.host} port {seen.port}: {seen.handshake}.",
            "Check host and port of `server` in site.toml: something else answers there.",
            "STR-504",
            told="no TLS there",
        )
    if seen.ours:
        return ok("The consortium's own certificate came through unchanged.", told="none")
    issuer = issuer_of(seen.shown)
    if names_host(seen.shown, seen.host):
        return failed(
            f"TLS is opened on the way: the certificate shown for {seen.host} was issued by "
            f"{issuer}, not by the consortium's CA.",
            f"Ask whoever keeps that inspection for an exception for {seen.host} port {seen.port}.",
            "STR-201",
            told="another issuer, for the server's name",
        )
    return failed(
        f"Another machine answers: its certificate, issued by {issuer}, is not for {seen.host}.",
        "Check that the name in `server` stands for the consortium's server (DNS), and the port.",
        "STR-201",
        told="another issuer, for another name",
    )


def server_name(seen: LineSeen) -> Finding:
    """Whether the server's certificate is for the name that is dialled."""
    if seen.shown is not None and names_host(seen.shown, seen.host):
        return ok(f"The server's certificate names {seen.host}.", told="named")
    return failed(
        f"The server's certificate does not name {seen.host}.",
        "Use the name that the operator gave; or ask the operator to add this one to it.",
        "STR-201",
        told="another name in it",
    )


def clock(exam: Examination) -> Finding:
    """This machine's clock against the server's, as it came through TLS."""
    seen = exam.line
    if seen.date is None or seen.received_at is None:
        return skipped("the server told no time")
    # The Date has whole seconds, and the answer took a while.
    off = (seen.received_at - seen.date).total_seconds() - 0.5 - seen.round_trip_s / 2
    told = f"off by {off:+.0f} s"
    if abs(off) <= SKEW_WARN_S:
        return ok(
            f"Within {max(1.0, abs(off)):.0f} s of the server's.", told=told, seconds=round(off)
        )
    way = "ahead of" if off > 0 else "behind"
    saw = f"This machine's clock is {_length(abs(off))} {way} the server's."
    fix = "Set the clock and have NTP keep it (`timedatectl set-ntp true`)."
    if abs(off) <= SKEW_MOST_S:
        return warning(saw, fix, told=told, seconds=round(off))
    return failed(saw, fix, "STR-201", told=told, seconds=round(off))


def server_validity(exam: Examination) -> Finding:
    """Whether the server's certificate holds today."""
    shown = exam.line.shown
    if shown is None:
        return skipped("no certificate was shown")
    now, end = exam.now, shown.not_valid_after_utc
    if now > end:
        return failed(
            f"The server's certificate expired on {end:%Y-%m-%d}.",
            "Tell the operator: `stillroom-server renew-certificate`.",
            "STR-201",
            told="expired",
        )
    if now < shown.not_valid_before_utc:
        return failed(
            "The server's certificate is not yet valid.", "Check this machine's clock.", "STR-201",
            told="not yet valid",
        )  # fmt: skip
    days = (end - now).days
    return ok(f"Valid for {days} more days.", told=f"{days} days", days=days)


def admission(seen: LineSeen) -> Finding:
    """What the server says to this site."""
    if seen.status is None:
        return failed(
            "The server cuts the connection without an answer, as it does with a site that was "
            "revoked, is not enrolled, or is known with another key.",
            "Ask the operator what `site list` and the server's log say about this site.",
            "STR-206",
            told="no answer",
        )
    if seen.status == 401:
        reason = seen.body.strip()[:40]
        saw, do = NOT_IN.get(
            reason,
            (
                "The server does not accept this site's certificate.",
                "Ask the operator whether this site is enrolled with its present certificate.",
            ),
        )
        known = reason if reason in NOT_IN else "refused"
        return failed(saw, do, "STR-206", told=known)
    if seen.status == UPGRADE_REQUIRED:
        return ok("The server knows this site.", told="known, refused over the version")
    if seen.status >= 500:
        return failed(
            f"The server answers with an error ({seen.status}).",
            "Ask the operator; try again in a minute.",
            "STR-504",
            told=f"status {seen.status}",
        )
    return ok("The server lets this site in.", told="let in")


def version(seen: LineSeen) -> Finding:
    """Whether the releases of both sides fit."""
    said, own = seen.said, own_version()
    if read_version(said.get("version")) is None and seen.status != UPGRADE_REQUIRED:
        return skipped("the server does not tell its version")
    about = About.read(said)
    told = f"server {about.version}, client {own}"
    why = mismatch(own, about)
    if why is None and seen.status == UPGRADE_REQUIRED:
        why = "client-unreadable"
    if why is None:
        return ok(f"Server {about.version}, client {own}.", told=told)
    error = explained(why, own, about, seen.host)
    return failed(error.what, error.fix, error.code, told=f"{told}: {why}")


def elsewhere(exam: Examination) -> Finding:
    """Whether a courier with this site's identity runs somewhere else."""
    seen = exam.line
    if seen.presence is None:
        return skipped("the server does not tell who is connected")
    heard = seen.presence.get("courier_s")
    if not isinstance(heard, int | float) or heard > ELSEWHERE_S:
        return ok("The server hears no other courier of this site.", told="none")
    if (
        exam.pulse is not None
        and (exam.now - exam.pulse.written_at).total_seconds() < heard + OURS_S
    ):
        return ok("The server heard the courier that runs, or ran, here.", told="ours")
    return failed(
        f"The server heard a courier with this site's identity {heard:.0f} s ago, and none runs "
        "here: the same keys are used on another machine.",
        "Stop the courier on the other machine; one identity belongs to one place. If none of yours "
        "runs there, have the operator revoke this site, and enrol again.",
        "STR-516",
        told="a courier elsewhere",
    )


def issuer_of(certificate: x509.Certificate) -> str:
    """The organisation that issued it, or the name it gives; a stranger chose those words."""
    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        found = certificate.issuer.get_attributes_for_oid(oid)
        if found:
            return "".join(c for c in str(found[0].value) if c.isprintable())[:60]
    return "somebody without a name"


def names_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether it is for ``host``: a name, with a star for the first label, or an address."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    if host in {str(address) for address in san.get_values_for_type(x509.IPAddress)}:
        return True
    names = {name.lower() for name in san.get_values_for_type(x509.DNSName)}
    return host.lower() in names or f"*.{host.lower().partition('.')[2]}" in names


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


CHECKS: tuple[Check[Examination], ...] = (
    Check("proxy", lambda e: proxy_setting(e.line), ("site.toml",), part="courier"),
    Check("name", lambda e: name(e.line), ("proxy",), part="courier"),
    Check("route", lambda e: route(e.line), ("name",), part="courier"),
    Check("proxy tunnel", lambda e: tunnel(e.line), ("route",), part="courier"),
    Check("TLS inspection", lambda e: inspection(e.line), ("proxy tunnel", "CA"), part="courier"),
    Check("server name", lambda e: server_name(e.line), ("TLS inspection",), part="courier"),
    Check("clock", clock, ("TLS inspection",), part="courier"),
    Check("server certificate", server_validity, ("TLS inspection", "clock"), part="courier"),
)
"""In the order of the way; those about our own papers come between these and ``ADMITTED``."""
ADMITTED: tuple[Check[Examination], ...] = (
    Check(
        "admission",
        lambda e: admission(e.line),
        ("TLS inspection", "own certificate", "key pair", "site name"),
        part="courier",
    ),
    Check("version", lambda e: version(e.line), ("admission",), part="courier"),
    Check("one courier", elsewhere, ("admission",), part="courier"),
)
