"""How this site is, for one screen: from pulse, ledger, consent and pause; asks nobody."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stillroom.client import leaving
from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, ConsentCheck
from stillroom.client.exchange import ExchangeFolder, runner_present
from stillroom.client.ledger import NAME, read
from stillroom.client.pausing import Pause, standing
from stillroom.client.pulse import Pulse, read_pulse
from stillroom.common.consent import WORDS, Consent
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import load_certificate, load_verifying_key
from stillroom.common.study import PreparedStudy


@dataclass(frozen=True, slots=True)
class Sent:
    """What the ledger says.

    Attributes:
        updates: How many files of weights left.
        bytes: Of those.
        refused: How many answers or requests the gate stopped.
        last: When an update left last.
        broken: Whether the ledger cannot be read.
    """

    updates: int = 0
    bytes: int = 0
    refused: int = 0
    last: datetime | None = None
    broken: bool = False


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """Everything; None where it cannot be known from here.

    Attributes:
        site: Its name.
        pulse: The courier's.
        courier: Whether it beats.
        runner: Whether it lives.
        pause: The pause that lasts.
        left: How far leaving has gone.
        study: Name of the study.
        consent: In words.
        consent_days: How long it lasts.
        certificate_days: How long this site's certificate lasts.
        sent: What the ledger says.
    """

    site: str
    pulse: Pulse | None
    courier: bool
    runner: bool
    pause: Pause | None
    left: leaving.Left | None
    study: str | None
    consent: str | None
    consent_days: int | None
    certificate_days: int | None
    sent: Sent

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "site": self.site,
            "courier": self.courier,
            "runner": self.runner,
            "paused_since": self.pause and self.pause.since.isoformat(),
            "left": self.left and {"server": self.left.server, "wiped": self.left.wiped},
            "study": self.study,
            "consent": self.consent,
            "consent_days": self.consent_days,
            "certificate_days": self.certificate_days,
            "updates": self.sent.updates,
            "bytes": self.sent.bytes,
            "refused": self.sent.refused,
            "last_update_at": self.sent.last and self.sent.last.isoformat(),
            "pulse": self.pulse and self.pulse.model_dump(mode="json"),
        }


def look(config: SiteConfig, now: datetime) -> SiteStatus:
    """How this site is now. Reads files; whatever cannot be read is left out."""
    pulse = read_pulse(config.courier_state)
    study, consent, days = _study(config, now)
    return SiteStatus(
        site=config.site,
        pulse=pulse,
        courier=pulse is not None and pulse.beats(now),
        runner=runner_present(ExchangeFolder(config.exchange)) is not None,
        pause=standing(config.courier_state),
        left=leaving.standing(config.courier_state),
        study=study,
        consent=consent,
        consent_days=days,
        certificate_days=_certificate_days(config, now),
        sent=_sent(config.courier_state / NAME),
    )


def in_words(status: SiteStatus, now: datetime) -> list[tuple[str, str]]:
    """One line a subject, for people. Pure."""
    lines = [("site", status.site)]
    if status.left is not None:
        done = "left the consortium" if status.left.wiped else "is leaving: run `leave` again"
        lines.append(("membership", f"{done}; server: {status.left.server}"))
    if status.pause is not None:
        why = f" ({status.pause.why})" if status.pause.why else ""
        since = f"{status.pause.since:%Y-%m-%d %H:%M} UTC"
        lines.append(("paused", f"since {since}{why}; `stillroom-client resume` goes on"))
    lines.append(("courier", _courier(status, now)))
    lines.append(("runner", "runs" if status.runner else "does not run"))
    lines.append(("now", _task(status, now)))
    lines.append(("study", status.study or "none that can be read"))
    if status.consent is not None:
        more = f", {status.consent_days} more days" if status.consent_days is not None else ""
        lines.append(("consent", f"{status.consent}{more}"))
    if status.certificate_days is not None:
        lines.append(("certificate", f"{status.certificate_days} more days; renews itself"))
    sent = status.sent
    if sent.broken:
        lines.append(("left here", "the ledger cannot be read: `stillroom-client ledger verify`"))
    else:
        last = f", the last {ago(sent.last, now)}" if sent.last else ""
        size = f"{sent.bytes / 2**20:.1f} MiB"
        lines.append(("left here", f"{sent.updates} updates, {size}{last}; {sent.refused} refused"))
    return lines


def ago(then: datetime, now: datetime) -> str:
    """How long something is past. Pure."""
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _courier(status: SiteStatus, now: datetime) -> str:
    pulse = status.pulse
    if pulse is None:
        return "has never run here"
    if not status.courier:
        return f"does not run; last seen {ago(pulse.written_at, now)}"
    if pulse.last_contact_at is None:
        return "runs, and has not reached the server yet"
    return f"runs; server heard {ago(pulse.last_contact_at, now)}"


def _task(status: SiteStatus, now: datetime) -> str:
    task = status.pulse.task if status.pulse is not None and status.courier else None
    if task is None:
        return "nothing to do"
    where = f" of {task.stage}" if task.stage else ""
    number = f" {task.round}" if task.round else ""
    return f"{task.message}{number}{where}, begun {ago(task.since, now)}"


def _study(config: SiteConfig, now: datetime) -> tuple[str | None, str | None, int | None]:
    try:
        prepared = PreparedStudy.load(config.study)
    except StillroomError:
        return None, None, None
    name = prepared.study.study.name
    if config.consortium is None:
        return name, None, None
    book = ConsentBook.below(config.exchange)
    try:
        key = load_verifying_key(config.signing_key)
        given = ConsentCheck(book, prepared.digest, config.site, key).standing()
        record = book.latest(prepared.digest)
    except StillroomError:
        return name, "cannot be read", None
    days = None
    if given == "given" and isinstance(record, Consent):
        days = int((record.expires_at - now.timestamp()) // 86400)
    return name, WORDS[given], days


def _certificate_days(config: SiteConfig, now: datetime) -> int | None:
    try:
        return (load_certificate(config.tls.certificate).not_valid_after_utc - now).days
    except StillroomError:
        return None


def _sent(path: Path) -> Sent:
    updates, size, refused, last = 0, 0, 0, None
    try:
        for line in read(path):
            if line.kind == "sent" and line.content:
                updates, size, last = updates + 1, size + line.bytes, line.time
            refused += line.kind == "refused"
    except FileNotFoundError:
        return Sent()
    except (OSError, StillroomError):
        return Sent(updates, size, refused, last, broken=True)
    return Sent(updates, size, refused, last)
