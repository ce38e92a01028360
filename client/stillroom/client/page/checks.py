"""Is this site working, and if not, what is to be done? Pure.

What can be known from files alone; ``stillroom-client doctor`` looks at the network, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from stillroom.client.page.overview import SiteOverview
from stillroom.common.consent import WORDS
from stillroom.common.markup import data_size, duration, moment, percent, plural

HEARD = timedelta(seconds=90)
"""A courier hears from its server every twenty seconds, and less."""
RUNNER = timedelta(seconds=60)
CERTIFICATE = timedelta(days=7)
DISK_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: ``fix`` says what to do where it does not hold."""

    name: str
    holds: bool
    words: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """In one word, with one sentence about it."""

    state: Literal["working", "paused", "stopped", "attention"]
    title: str
    words: str


def is_alive(seen: SiteOverview) -> bool:
    """Whether a courier runs."""
    return seen.pulse is not None and seen.pulse.beats(seen.at)


def is_connected(seen: SiteOverview) -> bool:
    """Whether a courier runs and the server has answered it lately."""
    heard = None if seen.pulse is None else seen.pulse.last_contact_at
    return is_alive(seen) and _within(heard, seen, HEARD)


def has_runner(seen: SiteOverview) -> bool:
    """Whether a runner was there lately."""
    there = None if seen.pulse is None else seen.pulse.runner_seen_at
    return is_alive(seen) and _within(there, seen, RUNNER)


def _within(then: datetime | None, seen: SiteOverview, limit: timedelta) -> bool:
    return then is not None and seen.at - then <= limit


def verdict(seen: SiteOverview) -> Verdict:
    """What matters most."""
    failing = [check for check in checks(seen) if not check.holds]
    if seen.witness is not None:
        words = "This site does nothing for the server until a person has looked."
        return Verdict("stopped", "Stopped: the server's log does not hold", words)
    if seen.left.damage is not None:
        return Verdict(
            "stopped", "The ledger is damaged", "Nothing can leave until that is settled."
        )
    if not is_alive(seen):
        words = "Nothing is received and nothing leaves; this page shows what was so far."
        return Verdict("stopped", "The courier is not running", words)
    if seen.pause is not None:
        why = f" Reason: {seen.pause.why}." if seen.pause.why else ""
        words = f"Since {moment(seen.pause.since.isoformat())}. No new task is taken.{why}"
        return Verdict("paused", "Paused by this site", words)
    if failing:
        return Verdict("attention", "Needs a look", failing[0].words)
    return Verdict("working", "Working", doing(seen))


def doing(seen: SiteOverview) -> str:
    """What it does at this moment."""
    task = None if seen.pulse is None else seen.pulse.task
    if task is None:
        return "Connected, and waiting for the next task."
    past = duration(max(0.0, (seen.at - task.since).total_seconds()))
    where = f"stage {task.stage}, round {task.round}" if task.round else task.stage
    what = {
        "inventory": "Counting its cases",
        "round": f"Training: {where}",
        "label": f"Labelling its own scans: {where}",
        "stage": f"Scoring: {where}",
    }.get(task.message, f"Working: {where}")
    return f"{what}, for {past}."


def checks(seen: SiteOverview) -> list[Check]:
    """Everything that was looked at, in the order in which one would look."""
    return [
        *_processes(seen),
        *_papers(seen),
        *_records(seen),
        _disk(seen),
    ]


def _processes(seen: SiteOverview) -> Iterator[Check]:
    alive, pulse = is_alive(seen), seen.pulse
    started = "" if pulse is None else f"since {moment(pulse.started_at.isoformat())}"
    fix = "Start `stillroom-client courier`, or see `stillroom-client logs`."
    yield Check("Courier", alive, f"running {started}" if alive else "not running", fix)
    heard = None if pulse is None else pulse.last_contact_at
    words = "nothing heard yet" if heard is None else f"last heard {ago(heard, seen.at)}"
    yield Check(
        "Server",
        is_connected(seen),
        words,
        f"Check the line to {seen.server}: `stillroom-client doctor` names what is in the way.",
    )
    there = None if pulse is None else pulse.runner_seen_at
    words = "not seen yet" if there is None else f"last seen {ago(there, seen.at)}"
    fix = "Start `stillroom-client runner`; tasks wait for it, then the server is told STR-511."
    yield Check("Runner", has_runner(seen), words, fix)


def _papers(seen: SiteOverview) -> Iterator[Check]:
    # Without a consent nothing is wrong with the study; the next line says what is.
    if seen.trouble is not None and seen.trouble.code != "STR-208":
        yield Check("Study", holds=False, words=str(seen.trouble.what), fix=seen.trouble.fix)
    elif seen.prepared is not None:
        signed = "signed by an operator" if seen.consortium else "an unsigned trial"
        yield Check("Study", holds=True, words=f"{seen.prepared.study.study.name}, {signed}")
    if seen.standing is not None:
        until = f", until {moment(seen.consent_end.isoformat())}" if seen.consent_end else ""
        words = f"{WORDS[seen.standing]}{until if seen.standing == 'given' else ''}"
        fix = "Read `stillroom-client consent show`; whoever decides it runs `consent give`."
        yield Check("Consent", seen.standing == "given", words, fix)
    if seen.certificate_end is None:
        yield Check(
            "Certificate", holds=False, words="cannot be read", fix="Check [tls] in site.toml."
        )
        return
    left = seen.certificate_end - seen.at
    words = f"{plural(left.days, 'day')} left" if left > timedelta() else "expired"
    fix = "A connected courier renews it; once expired, ask the operator for a new invitation."
    yield Check("Certificate", left > CERTIFICATE, words, fix)


def _records(seen: SiteOverview) -> Iterator[Check]:
    damage, lines = seen.left.damage, seen.left.checked.lines
    if damage is not None:
        yield Check("Ledger", holds=False, words=damage.what, fix=damage.fix)
    else:
        yield Check("Ledger", holds=True, words=f"{plural(lines, 'line')}, and the chain holds")
    if seen.witness is not None:
        fix = "Keep courier_state/witness as evidence, telephone other sites: docs/hospital-it/witness.md."
        yield Check("Server's log", holds=False, words=seen.witness or "it does not hold", fix=fix)
    elif seen.consortium:
        yield Check("Server's log", holds=True, words="continues what this site has seen")


def _disk(seen: SiteOverview) -> Check:
    share = seen.disk_free / seen.disk_size
    words = f"{data_size(seen.disk_free)} free, {percent(share)}"
    return Check("Disk", share >= DISK_SHARE, words, "Make room on the disk of courier_state.")


def ago(then: datetime, now: datetime) -> str:
    """How long something is past."""
    seconds = max(0.0, (now - then).total_seconds())
    return "just now" if seconds < 30 else f"{duration(seconds)} ago"
