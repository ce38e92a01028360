"""The server's two processes and its ports: what runs, what answers, and what has taken their place."""

import errno
import hashlib
import socket
import ssl

from cryptography.hazmat.primitives.serialization import Encoding

from stillroom.common.checkup import Check, Finding, failed, ok, warning
from stillroom.common.errors import ResourceError
from stillroom.common.pki.files import load_certificate
from stillroom.server.alive import EXECUTE, is_alive
from stillroom.server.doctor.examination import Examination
from stillroom.server.health import require_serving

RESTART = "If it has just started, wait; else look at the end of its log, and start it again."


def edge_port(exam: Examination) -> Finding:
    """Whether it is free, or served by this very server."""
    config = exam.config
    der = load_certificate(config.tls.certificate).public_bytes(Encoding.DER)
    free = is_free(config.edge_host, config.edge_port)
    shown = "" if free else _shown(exam)
    return edge_finding(
        free=free, serves=exam.serves, shown=shown, mine=hashlib.sha256(der).hexdigest()
    )


def edge_finding(*, free: bool, serves: bool, shown: str, mine: str) -> Finding:
    """What the edge's port is in. Pure.

    Args:
        free: Nobody has the port.
        serves: `serve` runs on this state.
        shown: SHA-256 of the certificate that the port shows; empty where it shows none.
        mine: Of the certificate on the disk.
    """
    if shown == mine:
        return ok("The edge port is served by this server.", told="served")
    if serves and not shown:
        return failed(
            "`serve` runs, and nobody answers at the edge port.", RESTART, "STR-520", told="silent"
        )
    if serves:
        return warning(
            "The edge shows another certificate than the one on the disk.",
            "Start `serve` again: it reads its certificate when it starts.",
            "STR-201",
            told="shows another certificate",
        )
    if free:
        return ok("The edge port is free: the server does not run.", told="free")
    return _taken("edge")


def inner_port(exam: Examination) -> Finding:
    """Likewise; it answers to whoever is on this machine, so it is asked."""
    config = exam.config
    if is_free("127.0.0.1", config.inner_port):
        if exam.serves:
            return _inner_silent()
        return ok("The inner port is free: the server does not run.", told="free")
    # A release before this one holds no lock; where the edge is served the inner port is, too.
    if not exam.serves and is_free(config.edge_host, config.edge_port):
        return _taken("inner")
    try:
        require_serving(config, exam.patience_s)
    except ResourceError:
        return _inner_silent()
    return ok("The inner port is served by this server.", told="served")


def _inner_silent() -> Finding:
    return failed(
        "`serve` runs, and nobody answers at the inner port.", RESTART, "STR-520", told="silent"
    )


def _taken(which: str) -> Finding:
    return failed(
        f"Another program has the {which} port.",
        "Stop it (see `ss -ltnp`), or change the port in server.toml.",
        "STR-501",
        told="taken by another",
    )


def processes(exam: Examination) -> Finding:
    """Whether both run, or neither."""
    return processes_finding(serves=exam.serves, executes=is_alive(exam.config, EXECUTE))


def processes_finding(*, serves: bool, executes: bool) -> Finding:
    """What it means that one runs without the other. Pure."""
    if serves == executes:
        both = (
            "`serve` and `execute` both run." if serves else "Neither `serve` nor `execute` runs."
        )
        return ok(both, told="both run" if serves else "neither runs")
    runs, away = ("serve", "execute") if serves else ("execute", "serve")
    so = "no study goes on" if serves else "no site reaches this server"
    return failed(
        f"`{runs}` runs and `{away}` does not: {so}.",
        f"Start `stillroom-server {away}` with the same server.toml; its log says why it ended.",
        "STR-502",
        told=f"{away} does not run",
    )


def is_free(host: str, port: int) -> bool:
    """Whether one could listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            # No right to a low port, or no such address: that is not "taken".
            return error.errno not in {errno.EADDRINUSE}
    return True


def _shown(exam: Examination) -> str:
    """SHA-256 of the certificate that the edge's port shows; asks for no name, which would be noted."""
    config = exam.config
    host = "127.0.0.1" if config.edge_host in {"0.0.0.0", "::"} else config.edge_host  # noqa: S104
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, config.edge_port), exam.patience_s) as plain,
            context.wrap_socket(plain) as tls,
        ):
            return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


CHECKS: tuple[Check[Examination], ...] = (
    Check("edge port", edge_port, ("server.toml",), unless=("certificate",)),
    Check("inner port", inner_port, ("server.toml",), unless=("edge port",)),
    Check("processes", processes, ("server.toml",), unless=("edge port", "inner port")),
)
