"""What the operator's side measures. Pure: an overview in, values out."""

from collections.abc import Mapping

from stillroom.common.pages.metrics import Measure, Values
from stillroom.common.versions import own_version
from stillroom.server.page.overview import Overview, RunNow, enrolled
from stillroom.server.page.run_view import answers
from stillroom.server.page.words import REASONS

NEWEST = 20
"""Runs that are measured: a server that has had thousands does not tell of them for ever."""
STATES = ("starting", "running", "paused", "ending", "completed", "failed")

INFO = Measure("stillroom_server_info", "1, with the version of stillroom.", ("version",))
SERVING = Measure(
    "stillroom_server_serving", "1 while the server takes connections on its machine."
)
SEEN = Measure(
    "stillroom_server_site_last_seen_timestamp_seconds",
    "When a site last asked for something, since the server was started.",
    ("site",),
)
SILENT = Measure(
    "stillroom_server_site_silent_seconds",
    "How long nothing has been heard of an enrolled site; absent before its first word.",
    ("site",),
)
CERTIFICATE = Measure(
    "stillroom_server_site_certificate_seconds",
    "Until an enrolled site's newest certificate ends; negative after that.",
    ("site",),
)
RECEIVED = Measure(
    "stillroom_server_site_received_bytes_total",
    "From a site, since the server was started.",
    ("site",),
    "counter",
)
SENT = Measure(
    "stillroom_server_site_sent_bytes_total",
    "To a site, since the server was started.",
    ("site",),
    "counter",
)
REFUSED = Measure(
    "stillroom_server_refused_total",
    "Handshakes and requests that the edge refused since the server was started.",
    ("reason",),
    "counter",
)
STATE = Measure("stillroom_server_run_state", "1 for the state a run is in.", ("run", "state"))
ROUND = Measure(
    "stillroom_server_round_number", "Last committed round of a stage.", ("run", "stage")
)
ROUNDS = Measure("stillroom_server_rounds", "Rounds that a stage will have.", ("run", "stage"))
SECONDS = Measure(
    "stillroom_server_round_seconds", "How long the last committed round took.", ("run", "stage")
)
ASKED = Measure(
    "stillroom_server_round_asked", "Sites asked in the last committed round.", ("run", "stage")
)
COUNTED = Measure(
    "stillroom_server_round_participants",
    "Sites that counted in the last committed round.",
    ("run", "stage"),
)
QUORUM = Measure("stillroom_server_round_quorum", "Fewest sites of a round.", ("run",))
OPEN = Measure(
    "stillroom_server_round_open_seconds",
    "How long the present round has been open; 0 while none is.",
    ("run",),
)
ANSWERED = Measure(
    "stillroom_server_round_answered", "Sites that have answered in the present round.", ("run",)
)
AWAITED = Measure("stillroom_server_round_awaited", "Sites awaited in the present round.", ("run",))
ANSWERS = Measure(
    "stillroom_server_answers_refused_total",
    "Answers of a run that did not count, by code, or `late`, `failed`.",
    ("run", "code"),
    "counter",
)
DENIED = Measure(
    "stillroom_server_run_answers_refused_total",
    "The same, of all codes: there from 0 on.",
    ("run",),
    "counter",
)
LOG = Measure("stillroom_server_log_entries", "Entries of the consortium's log.")
FREE = Measure("stillroom_server_disk_free_bytes", "On the disk of the server's state.")
SIZE = Measure("stillroom_server_disk_size_bytes", "Of that disk.")

MEASURES = (
    INFO, SERVING, SEEN, SILENT, CERTIFICATE, RECEIVED, SENT, REFUSED, STATE, ROUND, ROUNDS, SECONDS,
    ASKED, COUNTED, QUORUM, OPEN, ANSWERED, AWAITED, ANSWERS, DENIED, LOG, FREE, SIZE,
)  # fmt: skip
"""All of them, as docs/reference/metrics.md lists them."""

Found = dict[Measure, dict[tuple[str, ...], float]]


def measures(seen: Overview) -> Values:
    """Every measure with its values."""
    found: Found = {measure: {} for measure in MEASURES}
    found[INFO][str(own_version()),] = 1
    found[SERVING][()] = float(seen.is_serving)
    found[FREE][()], found[SIZE][()] = float(seen.disk_free), float(seen.disk_size)
    if seen.log_entries is not None:
        found[LOG][()] = float(seen.log_entries)
    # From 0 on: what first appears with its first refusal has not increased, to Prometheus.
    for reason, count in {**dict.fromkeys(REASONS, 0), **seen.refused}.items():
        found[REFUSED][reason,] = float(count)
    _sites(seen, found)
    for one in seen.runs[-NEWEST:]:
        _run(one, seen.at, found)
    return found.items()


def _sites(seen: Overview, found: Found) -> None:
    for site in enrolled(seen.sites):
        key = (site.name,)
        if site.last_seen is not None:
            found[SEEN][key] = site.last_seen
            found[SILENT][key] = max(0.0, seen.at - site.last_seen)
            found[RECEIVED][key], found[SENT][key] = float(site.bytes_in), float(site.bytes_out)
        if site.not_after is not None:
            found[CERTIFICATE][key] = site.not_after - seen.at


def _run(one: RunNow, at: float, found: Found) -> None:
    run = one.run.name
    for state in STATES:
        found[STATE][run, state] = float(one.now.state == state)
    found[QUORUM][run,] = float(one.quorum)
    is_open = one.now.since is not None
    found[OPEN][run,] = max(0.0, at - one.now.since) if one.now.since is not None else 0.0
    found[ANSWERED][run,] = float(len(one.now.answered)) if is_open else 0.0
    found[AWAITED][run,] = float(len(one.now.awaited)) if is_open else 0.0
    refused = answers(one)
    found[DENIED][run,] = float(refused.total())
    for code, count in refused.items():
        found[ANSWERS][run, code] = float(count)
    for stage, of, record in one.rounds():
        sites: Mapping[str, Mapping[str, object]] = record.get("sites") or {}
        key = (run, stage)
        found[ROUND][key], found[ROUNDS][key] = float(record.get("round", 0)), float(of)
        found[SECONDS][key] = float(record.get("seconds") or 0.0)
        found[ASKED][key] = float(len(sites))
        found[COUNTED][key] = float(sum(s.get("status") == "admitted" for s in sites.values()))
