"""What needs an operator now, worst first, each with what to do. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from stillroom.common.markup import duration, listing, percent
from stillroom.server.page.overview import Overview, RunNow, enrolled
from stillroom.server.store.members import ENROLLED

SILENT_S = 900.0
"""A courier looks for work far more often than this."""
CERTIFICATE_DAYS = 7
DISK_SHARE = 0.05
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not as it should be: ``what``, and the ``fix`` in one imperative sentence."""

    what: str
    fix: str


def troubles(seen: Overview) -> list[Trouble]:
    """Everything that needs a person."""
    return [*_server(seen), *_runs(seen), *_sites(seen)]


def _server(seen: Overview) -> Iterator[Trouble]:
    if not seen.is_serving:
        yield Trouble(
            "The server does not answer on this machine.",
            "Start `stillroom-server serve`, or read its log.",
        )
    if seen.disk_free < DISK_SHARE * seen.disk_size:
        share = percent(seen.disk_free / seen.disk_size)
        yield Trouble(
            f"The disk of `state` has {share} left.", "Make room: a full disk pauses every study."
        )


def _runs(seen: Overview) -> Iterator[Trouble]:
    for one in seen.runs:
        if one.now.state == "failed" and one is seen.runs[-1]:
            yield Trouble(
                f"{one.run.name} failed: {one.now.reason}",
                "Mend what it says, then start the study in a new folder.",
            )
        if one.now.state == "paused" and one.now.reason:
            yield Trouble(
                f"{one.run.name} is paused: {one.now.reason}",
                f"Mend it, then `stillroom-server run resume {one.run.name}`.",
            )
        if (last := incomplete(one)) and not one.is_over:
            stage, number, missing = last
            yield Trouble(
                f"{one.run.name}: {stage}, round {number}, was closed without {listing(missing)}.",
                "See why under Participation; a site that comes back is in the next round.",
            )


def incomplete(one: RunNow) -> tuple[str, int, list[str]] | None:
    """Stage, number and missing sites of the last committed round; None where nobody was missing."""
    last = None
    for stage, _, record in one.rounds():
        last = (stage, record)
    if last is None:
        return None
    stage, record = last
    sites = record.get("sites") or {}
    missing = sorted(name for name, one in sites.items() if one.get("status") != "admitted")
    return (stage, int(record.get("round", 0)), missing) if missing else None


def _sites(seen: Overview) -> Iterator[Trouble]:
    is_running = any(one.now.state in {"running", "starting"} for one in seen.runs)
    silent = [
        site
        for site in enrolled(seen.sites)
        if site.last_seen is not None and seen.at - site.last_seen > SILENT_S
    ]
    if silent and is_running:
        longest = max(seen.at - (site.last_seen or seen.at) for site in silent)
        yield Trouble(
            f"No word from {listing(site.name for site in silent)} for up to {duration(longest)}.",
            "Telephone the site: its courier is stopped, or its line is down.",
        )
    for site in seen.sites:
        if site.status != ENROLLED or site.not_after is None:
            continue
        left = (site.not_after - seen.at) / DAY_S
        if left <= 0:
            yield Trouble(
                f"The certificate of {site.name} has expired.",
                f"Invite it anew: `stillroom-server site invite {site.name}`.",
            )
        elif left < CERTIFICATE_DAYS:
            yield Trouble(
                f"The certificate of {site.name} ends in {left:.0f} days and was not renewed.",
                "Telephone the site: a running courier renews it by itself.",
            )
