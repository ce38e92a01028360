"""Everything that a hospital looks at, read from the courier's own files; nobody is asked.

A process of its own reads it: the page works while the courier is stopped, holds nothing up, and
has neither the courier's keys in memory nor the scans in reach.
"""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stillroom.client import pausing
from stillroom.client.agreement import Agreement
from stillroom.client.config import SiteConfig
from stillroom.client.ledger import NAME, Line
from stillroom.client.page.departures import Departing, Departures
from stillroom.client.pausing import Pause
from stillroom.client.pinning import pinned
from stillroom.client.pulse import Pulse, read_pulse
from stillroom.client.receipts import Receipts
from stillroom.client.witness import FOLDER, STOPPED
from stillroom.common.consent import Consent, Standing
from stillroom.common.errors import StillroomError
from stillroom.common.log_identity import log_verifier
from stillroom.common.pki.files import load_certificate
from stillroom.common.study import PreparedStudy

MOST_WORDS = 400
"""Characters of a reason that are shown."""


@dataclass(frozen=True, slots=True)
class SiteOverview:
    """A whole site at one moment. Times are aware, UTC, by this machine's clock.

    Attributes:
        at: When.
        site: Its name.
        server: The only address it dials.
        consortium: The consortium's name; empty where it joined none.
        pulse: How the courier is; None where none has ever run.
        pause: The pause that lasts.
        witness: Why this site does nothing for the server any more; None where it does.
        certificate_end: Of this site's certificate; None where it cannot be read.
        prepared: The study; None where it cannot be trusted or read.
        trouble: Why, then; or why it may not be worked on.
        standing: Of this site's consent; None in a trial without any.
        consent_end: Of a consent that was given.
        left: What the ledger says.
        receipts: SHA-256 of a file that left -> ``ok``, ``missing`` or ``FAILED``; of the newest.
        disk_free: Bytes on the disk of ``courier_state``.
        disk_size: Of that disk.
    """

    at: datetime
    site: str
    server: str
    consortium: str
    pulse: Pulse | None
    pause: Pause | None
    witness: str | None
    certificate_end: datetime | None
    prepared: PreparedStudy | None
    trouble: StillroomError | None
    standing: Standing | None
    consent_end: datetime | None
    left: Departures
    receipts: dict[str, str]
    disk_free: int
    disk_size: int


class SiteWatch:
    """Looks at one site again and again, and remembers what cannot have changed."""

    def __init__(self, config: SiteConfig) -> None:
        self._config = config
        self._departing = Departing(config.courier_state / NAME)
        self._agreed: tuple[tuple[int, ...], Agreement] | None = None
        self._receipts: dict[str, str] = {}

    def look(self) -> SiteOverview:
        """As it is now."""
        config, left = self._config, self._departing.look()
        agreement, trouble = self._agreement()
        state = config.courier_state
        disk = shutil.disk_usage(next(p for p in (state, *state.parents) if p.exists()))
        standing, until = _consent(agreement)
        return SiteOverview(
            at=datetime.now(UTC),
            site=config.site,
            server=config.server,
            consortium=_name(config.consortium),
            pulse=read_pulse(state),
            pause=pausing.standing(state),
            witness=_stopped(state / FOLDER / STOPPED),
            certificate_end=_end(config.tls.certificate),
            prepared=None if agreement is None else agreement.prepared,
            trouble=trouble,
            standing=standing,
            consent_end=until,
            left=left,
            receipts=self._receipts_of(left.newest),
            disk_free=disk.free,
            disk_size=disk.total,
        )

    def _agreement(self) -> tuple[Agreement | None, StillroomError | None]:
        """The study, proven once for every state of its files, and why it may not be worked on."""
        files = [self._config.study / "study.json", self._config.study / "study.sig"]
        if self._config.consortium is not None:
            files.append(self._config.consortium)
        seen = tuple(stamp for path in files for stamp in _stamps(path))
        try:
            if self._agreed is None or self._agreed[0] != seen:
                self._agreed = None
                self._agreed = seen, Agreement.open(self._config)
            agreement = self._agreed[1]
        except StillroomError as error:
            return None, error
        try:
            agreement.require()
        except StillroomError as error:
            return agreement, error
        return agreement, None

    def _receipts_of(self, lines: tuple[Line, ...]) -> dict[str, str]:
        """A receipt that holds is not checked again."""
        if self._config.consortium is None:
            return {}
        wanted = [
            line for line in lines if line.content and self._receipts.get(line.content) != "ok"
        ]
        try:
            verifier = log_verifier(pinned(self._config.consortium))
        except (StillroomError, ValueError):
            return {}
        found = Receipts(self._config.courier_state).check(wanted, self._config.site, verifier)
        self._receipts |= {one.line.content: one.result for one in found}
        return {line.content: self._receipts.get(line.content, "missing") for line in lines}


def _consent(agreement: Agreement | None) -> tuple[Standing | None, datetime | None]:
    if agreement is None or agreement.consent is None:
        return None, None
    standing = agreement.consent.standing()
    try:
        record = agreement.consent.book.latest(agreement.consent.study)
    except StillroomError:
        return standing, None
    if not isinstance(record, Consent):
        return standing, None
    return standing, datetime.fromtimestamp(record.expires_at, UTC)


def _name(consortium: Path | None) -> str:
    if consortium is None:
        return ""
    try:
        return pinned(consortium).name
    except StillroomError:
        return ""


def _stopped(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")[:MOST_WORDS].strip()
    except OSError:
        return None


def _end(certificate: Path) -> datetime | None:
    try:
        return load_certificate(certificate).not_valid_after_utc
    except StillroomError:
        return None


def _stamps(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
