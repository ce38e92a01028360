"""Courier, runner and what they leave behind: who lives, since when, and whether the record holds."""

import errno
import fcntl
import os
import socket
from datetime import datetime
from pathlib import Path

from stillroom.client.doctor.examination import Examination
from stillroom.client.exchange import ExchangeFolder, runner_present
from stillroom.client.ledger import NAME, check, read
from stillroom.client.pausing import standing
from stillroom.client.pulse import Pulse
from stillroom.client.runtime_socket import short_name
from stillroom.client.witness import FOLDER, STOPPED
from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning

LONG_DAYS = 14
"""A site that answered nothing for so long is worth a look; studies may rest longer."""


def courier(exam: Examination) -> Finding:
    """Whether it runs, and whether the one that runs has the ledger."""
    return courier_finding(exam.pulse, _is_locked(exam.config.courier_state / NAME), exam.now)


def courier_finding(pulse: Pulse | None, locked: bool, now: datetime) -> Finding:  # noqa: FBT001
    """What pulse and lock say together. Pure."""
    beats = pulse is not None and pulse.beats(now)
    if beats and locked and pulse is not None:
        if pulse.last_contact_at is None:
            return warning(
                "The courier runs and has not reached the server yet.",
                "See the other checks; the courier's log says what it waits for.",
                told="runs, never connected",
            )
        quiet = int((now - pulse.last_contact_at).total_seconds())
        if quiet > 300:
            return warning(
                f"The courier runs; the server's last answer came {quiet // 60} min ago.",
                "See the other checks; it goes on trying.",
                told=f"runs, last contact {quiet // 60} min ago",
            )
        return ok("The courier runs and has contact.", told="runs")
    if locked:
        return warning(
            "Another process has this site's ledger, and it is no courier that beats.",
            "See who has it (`fuser ledger.jsonl`); a second courier ends with STR-507.",
            "STR-507",
            told="ledger held by another process",
        )
    return warning(
        "The courier does not run.",
        "Start it: `stillroom-client courier`, or its container or unit.",
        "STR-502",
        told="does not run",
    )


def runner(exam: Examination) -> Finding:
    """Whether it lives."""
    if runner_present(ExchangeFolder(exam.config.exchange)) is None:
        return warning(
            "The runner does not run.",
            "Start it: `stillroom-client runner`, or its container or unit.",
            "STR-511",
            told="does not run",
        )
    return ok("The runner runs.", told="runs")


def runner_line(exam: Examination) -> Finding:
    """Whether the socket between the two can be used from here."""
    config = exam.config
    if config.runtime_port is not None:
        return skipped("a port is used in place of the socket")
    if exam.pulse is None or not exam.pulse.beats(exam.now):
        return skipped("the courier does not run")
    path = ExchangeFolder(config.exchange).socket
    try:
        with socket.socket(socket.AF_UNIX) as sock, short_name(path) as name:
            sock.settimeout(2)
            sock.connect(name)
    except OSError as error:
        return failed(
            f"The socket in `exchange` does not answer: {error.strerror}.",
            "Check that courier and runner have the same `exchange`, on a local disk, and the rights.",
            "STR-501",
            told=error.strerror or "no answer",
        )
    return ok("The courier answers at the socket in `exchange`.", told="answers")


def pause(exam: Examination) -> Finding:
    """Whether somebody has paused this site."""
    found = standing(exam.config.courier_state)
    if found is None:
        return ok("Not paused.", told="not paused")
    why = f' ("{found.why}")' if found.why else ""
    return warning(
        f"Paused since {found.since:%Y-%m-%d %H:%M} UTC{why}.",
        "Run `stillroom-client resume` to go on.",
        "STR-515",
        told=f"paused for {(exam.now - found.since).days} days",
    )


def last_round(exam: Examination) -> Finding:
    """When an update last left."""
    path = exam.config.courier_state / NAME
    if not path.is_file():
        return skipped("no courier has run yet")
    sent = [line.time for line in read(path) if line.kind == "sent" and line.content]
    if not sent:
        return ok("No update has left yet.", told="none yet")
    days = (exam.now - sent[-1]).days
    told = f"{days} days ago, {len(sent)} in all"
    if days > LONG_DAYS:
        return warning(
            f"The last update left {days} days ago.",
            "Ask the operator whether a study runs; see `stillroom-client status`.",
            told=told,
        )
    return ok(f"The last update left on {sent[-1]:%Y-%m-%d %H:%M} UTC.", told=told)


def ledger(exam: Examination) -> Finding:
    """Whether the chain holds."""
    path = exam.config.courier_state / NAME
    if not path.is_file():
        return skipped("no courier has run yet")
    state = check(path)
    return ok(f"{state.lines} lines hold.", told=f"{state.lines} lines hold")


def witness(exam: Examination) -> Finding:
    """Whether this site has stopped over the consortium's log."""
    if not (exam.config.courier_state / FOLDER / STOPPED).exists():
        return ok("This site has not stopped over the consortium's log.", told="not stopped")
    return failed(
        "This site found the consortium's log broken, and does nothing for the server any more.",
        "Keep courier_state/witness, telephone other sites, and see docs/hospital-it/witness.md.",
        "STR-222",
        told="stopped",
    )


def _is_locked(path: Path) -> bool:
    """Whether a process has the ledger's lock; asks for it, and lets go at once."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in {errno.EWOULDBLOCK, errno.EACCES}
    finally:
        os.close(file)
    return False


CHECKS: tuple[Check[Examination], ...] = (
    Check("courier", courier, ("site.toml",), part="courier"),
    Check("runner", runner, ("exchange folder",)),
    Check("runner line", runner_line, ("exchange folder", "runner secret"), part="runner"),
    Check("pause", pause, ("site.toml",), part="courier"),
    Check("ledger", ledger, ("site.toml",), part="courier"),
    Check("last round", last_round, ("ledger",), part="courier"),
    Check("witness", witness, ("site.toml",), part="courier"),
)
