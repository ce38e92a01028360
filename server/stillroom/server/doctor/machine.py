"""State folder, disk, clock and ports of the server's machine."""

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.pki.files import load_certificate
from stillroom.server.doctor.examination import Examination

GIB = 1 << 30
LITTLE, TOO_LITTLE = 5 * GIB, 512 << 20
"""Bytes. A round of the paper's student writes a quarter of a GiB per site."""
TIME_ERROR = 5
"""adjtimex(2): the kernel's clock is not synchronised."""


def state(exam: Examination) -> Finding:
    """Whether the server may write where it has to."""
    folder = exam.config.state
    if not folder.exists():
        return ok("It will be made on the first start.", told="not there yet")
    probe = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return failed("The disk of `state` is full.", "Free it.", "STR-503", told="disk full")
        why = error.strerror or type(error).__name__
        return failed(
            f"Nothing can be written in `state`: {why}.",
            "Mount it read-write and give it to the server's account.",
            "STR-110",
            told=why,
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ok(f"{folder} can be written.", told="writable")


def disk(exam: Examination) -> Finding:
    """Room for rounds and the log."""
    folder = exam.config.state
    while not folder.exists():
        folder = folder.parent
    return disk_finding(shutil.disk_usage(folder).free)


def disk_finding(free: int) -> Finding:
    """What free bytes mean. Pure."""
    told = f"{free / GIB:.1f} GiB free"
    if free < TOO_LITTLE:
        return failed(
            f"{told} for `state`.", "Free the disk before a round needs it.", "STR-503", told
        )
    if free < LITTLE:
        return warning(f"{told} for `state`.", "Free the disk.", "STR-503", told)
    return ok(f"{told} for `state`.", told=told)


def clock(exam: Examination) -> Finding:
    """Whether the kernel says that its clock is kept."""
    return clock_finding(kernel_clock())


def clock_finding(answer: int | None) -> Finding:
    """What adjtimex(2) answered means. Pure."""
    if answer is None:
        return skipped("the kernel does not tell")
    if answer == TIME_ERROR:
        return warning(
            "Nothing keeps this machine's clock (NTP).",
            "Run `timedatectl set-ntp true`, or an NTP client: sites compare their clocks with it.",
            told="not synchronised",
        )
    return ok("The clock is kept by NTP.", told="synchronised")


def kernel_clock() -> int | None:
    """What adjtimex(2) answers; None where it cannot be asked."""
    try:
        # An empty struct timex asks and sets nothing; it has 208 bytes on 64-bit Linux.
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return int(answer) if answer >= 0 else None


def edge_port(exam: Examination) -> Finding:
    """Whether it is free, or served by this very server."""
    config = exam.config
    mine = hashlib.sha256(
        load_certificate(config.tls.certificate).public_bytes(Encoding.DER)
    ).hexdigest()
    return port_finding(
        "edge", is_free(config.edge_host, config.edge_port), lambda: _shown(exam) == mine
    )


def inner_port(exam: Examination) -> Finding:
    """Likewise; where the edge is served, whoever has this port is its own process."""
    config = exam.config
    free, edge_free = (
        is_free("127.0.0.1", config.inner_port),
        is_free(config.edge_host, config.edge_port),
    )
    if free and not edge_free:
        return warning(
            "The edge's port is taken, and nothing answers at the inner one.",
            "See who has the edge's port (`ss -ltnp`).",
            "STR-501",
            told="free, while the edge is taken",
        )
    return port_finding("inner", free, lambda: not edge_free)


def port_finding(which: str, free: bool, is_ours: Callable[[], bool]) -> Finding:  # noqa: FBT001
    """What a port's state means."""
    if free:
        return ok(f"The {which} port is free: the server does not run.", told="free")
    if is_ours():
        return ok(f"The {which} port is served by this server.", told="served")
    return failed(
        f"Another program has the {which} port.",
        "Stop it (see `ss -ltnp`), or change the port in server.toml.",
        "STR-501",
        told="taken by another",
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
    """SHA-256 of the certificate that the edge's port shows; empty where it shows none."""
    config = exam.config
    host = "127.0.0.1" if config.edge_host in {"0.0.0.0", "::"} else config.edge_host  # noqa: S104
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, config.edge_port), exam.patience_s) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    except OSError:
        return ""


def secret(exam: Examination) -> Finding:
    """What the server and its SuperExec know each other by."""
    path: Path = exam.config.secret_file
    if not path.exists():
        return ok("It will be made on the first start.", told="not there yet")
    if path.stat().st_mode & 0o077 or not os.access(path, os.R_OK):
        return failed(
            "The SuperExec's secret can be read by others, or not by this account.",
            f"Run `chmod 600 {path}`.",
            "STR-202",
            told="open to others",
        )
    return ok("The SuperExec's secret is this account's alone.", told="closed to others")


CHECKS: tuple[Check[Examination], ...] = (
    Check("state folder", state, ("server.toml",)),
    Check("disk", disk, ("server.toml",)),
    Check("clock", clock),
    Check("edge port", edge_port, ("server.toml",)),
    Check("inner port", inner_port, ("server.toml",)),
    Check("SuperExec secret", secret, ("server.toml",)),
)
