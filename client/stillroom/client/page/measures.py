"""What the site's side measures. Pure: an overview in, values out. No count of cases, no score."""

from datetime import datetime

from stillroom.client.page.checks import has_runner, is_alive, is_connected
from stillroom.client.page.overview import SiteOverview
from stillroom.common.pages.metrics import Measure, Values
from stillroom.common.versions import own_version

INFO = Measure(
    "stillroom_client_info", "1, with site and version of stillroom.", ("site", "version")
)
ALIVE = Measure("stillroom_client_courier_up", "1 while a courier runs.")
CONNECTED = Measure(
    "stillroom_client_connected", "1 while a courier runs and has heard from the server lately."
)
RUNNER = Measure("stillroom_client_runner_up", "1 while a runner is there.")
PAUSED = Measure("stillroom_client_paused", "1 while somebody at this site has paused it.")
WITNESS = Measure(
    "stillroom_client_witness_stopped", "1 when the server's log was found not to hold."
)
CONSENT = Measure("stillroom_client_consent_given", "1 while the consent to the study is valid.")
CONTACT = Measure(
    "stillroom_client_last_contact_timestamp_seconds", "When the server last answered anything."
)
LAST = Measure("stillroom_client_last_round_timestamp_seconds", "When an update was last let out.")
ROUND = Measure(
    "stillroom_client_round_number", "Newest round whose update left, by stage.", ("stage",)
)
SENT = Measure(
    "stillroom_client_sent_bytes_total",
    "Files of weights that left, by stage.",
    ("stage",),
    "counter",
)
FILES = Measure(
    "stillroom_client_sent_files_total", "How many of them, by stage.", ("stage",), "counter"
)
ANSWERS = Measure(
    "stillroom_client_answers_total", "Answers that left, with a file or without.", (), "counter"
)
REFUSED = Measure(
    "stillroom_client_refused_total", "What the gate stopped, by code.", ("code",), "counter"
)
REFUSALS = Measure(
    "stillroom_client_refusals_total", "The same, of all codes: there from 0 on.", (), "counter"
)
LEDGER = Measure("stillroom_client_ledger_entries", "Lines of the ledger whose chain holds.")
DAMAGED = Measure("stillroom_client_ledger_damaged", "1 when the ledger's chain does not hold.")
CERTIFICATE = Measure(
    "stillroom_client_certificate_seconds",
    "Until this site's certificate ends; negative after that.",
)
FREE = Measure("stillroom_client_disk_free_bytes", "On the disk of the courier's state.")
SIZE = Measure("stillroom_client_disk_size_bytes", "Of that disk.")

MEASURES = (
    INFO, ALIVE, CONNECTED, RUNNER, PAUSED, WITNESS, CONSENT, CONTACT, LAST, ROUND, SENT, FILES, ANSWERS,
    REFUSED, REFUSALS, LEDGER, DAMAGED, CERTIFICATE, FREE, SIZE,
)  # fmt: skip
"""All of them, as docs/reference/metrics.md lists them."""


def measures(seen: SiteOverview) -> Values:
    """Every measure with its values."""
    found: dict[Measure, dict[tuple[str, ...], float]] = {measure: {} for measure in MEASURES}
    end = seen.certificate_end
    plain: dict[Measure, float | None] = {
        ALIVE: is_alive(seen),
        CONNECTED: is_connected(seen),
        RUNNER: has_runner(seen),
        PAUSED: seen.pause is not None,
        WITNESS: seen.witness is not None,
        CONSENT: None if seen.standing is None else seen.standing == "given",
        CONTACT: _seconds(None if seen.pulse is None else seen.pulse.last_contact_at),
        LAST: _seconds(None if seen.left.last_sent is None else seen.left.last_sent.time),
        ANSWERS: seen.left.messages,
        REFUSALS: sum(seen.left.refused.values()),
        LEDGER: seen.left.checked.lines,
        DAMAGED: seen.left.damage is not None,
        CERTIFICATE: None if end is None else (end - seen.at).total_seconds(),
        FREE: seen.disk_free,
        SIZE: seen.disk_size,
    }
    for measure, value in plain.items():
        if value is not None:
            found[measure][()] = float(value)
    found[INFO][seen.site, str(own_version())] = 1.0
    for code, count in seen.left.refused.items():
        found[REFUSED][code,] = float(count)
    present = None if seen.prepared is None else seen.prepared.digest
    for (study, stage), total in seen.left.stages.items():
        for measure, value in ((SENT, total.bytes), (FILES, total.files)):
            found[measure][stage,] = found[measure].get((stage,), 0.0) + value
        if study == present:
            found[ROUND][stage,] = float(total.last_round)
    return found.items()


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
