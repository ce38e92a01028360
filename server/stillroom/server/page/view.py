"""The operator's page as HTML. Pure: an overview in, a body out."""

from collections import Counter
from collections.abc import Sequence

from stillroom.common.errors import CODES
from stillroom.common.markup import (
    Child,
    Html,
    data_size,
    duration,
    join,
    moment,
    percent,
    plural,
    prose,
    tag,
)
from stillroom.common.pages.document import alert, facts, section, table
from stillroom.server.page.overview import Overview, RunNow, SiteNow
from stillroom.server.page.run_view import answers, run_sections
from stillroom.server.page.troubles import DAY_S, troubles
from stillroom.server.page.words import REASONS

SITES_NOTES = (
    "Who may speak to this server. Seen and traffic: since the server was started.",
    "A running courier renews its certificate by itself.",
)
REFUSALS_NOTES = (
    "Whoever knocks without a certificate of this consortium is counted too: scanners do.",
)
LATE = {
    "late": "no answer in time",
    "failed": "failed at the site",
    "refused": "refused",
}


def overview_body(seen: Overview) -> Html:
    """The front page: sites, the run that matters now, refusals, all runs."""
    current = current_run(seen.runs)
    return join(
        _header(seen),
        tag(
            "main",
            section("sites", "Sites", SITES_NOTES, _sites(seen)),
            run_sections(current, seen.at) if current else None,
            section("refusals", "Refusals", REFUSALS_NOTES, _refusals(seen, current)),
            section("runs", "All runs", (), _runs(seen)),
        ),
    )


def run_body(seen: Overview, one: RunNow) -> Html:
    """One run by itself."""
    back = tag("p", tag("a", "All sites and runs", href="/"), class_="live")
    return join(
        tag("header", _kicker(seen), tag("h1", one.run.name), back),
        tag("main", run_sections(one, seen.at)),
    )


def current_run(runs: Sequence[RunNow]) -> RunNow | None:
    """The newest run that is not over, or else the newest."""
    open_runs = [one for one in runs if not one.is_over]
    return next(reversed(open_runs or runs), None)


def _kicker(seen: Overview) -> Html:
    return tag("p", f"Operator's page, {moment(seen.at)}", class_="kicker")


def _header(seen: Overview) -> Html:
    found = troubles(seen)
    items = [
        tag("li", tag("p", prose(one.what)), tag("p", prose(one.fix), class_="fix"))
        for one in found
    ]
    verdict = (
        alert("Needs a look", tag("ul", items, class_="troubles"))
        if found
        else tag("p", "Nothing needs an operator now.", class_="fine")
    )
    running = sum(not one.is_over for one in seen.runs)
    enrolled = sum(site.status in {"enrolled", "unknown"} for site in seen.sites)
    pairs: list[tuple[str, Child]] = [
        ("server", "answers" if seen.is_serving else "does not answer"),
        ("sites enrolled", enrolled),
        ("runs under way", f"{running} of {len(seen.runs)}"),
        ("log entries", "no log" if seen.log_entries is None else seen.log_entries),
        ("disk free", f"{data_size(seen.disk_free)}, {percent(seen.disk_free / seen.disk_size)}"),
    ]
    title = tag("h1", seen.consortium or "A server without a consortium")
    return tag("header", _kicker(seen), title, verdict, facts(pairs))


def _sites(seen: Overview) -> Html:
    if not seen.sites:
        return tag("p", prose("No site yet. Invite one with `stillroom-server site invite`."))
    heads = ("site", "standing", "version", "last seen", "certificate", "received", "sent")
    rows = [
        (
            site.name,
            site.status,
            site.version or "—",
            _ago(site.last_seen, seen.at),
            _days(site, seen.at),
            data_size(site.bytes_in),
            data_size(site.bytes_out),
        )
        for site in seen.sites
    ]
    return table("Sites", heads, rows, numbers=" received sent ")


def _ago(then: float | None, at: float) -> str:
    if then is None:
        return "not yet"
    seconds = max(0.0, at - then)
    return "now" if seconds < 30 else f"{duration(seconds)} ago"


def _days(site: SiteNow, at: float) -> Child:
    if site.not_after is None:
        return "—"
    days = (site.not_after - at) / DAY_S
    return "expired" if days <= 0 else plural(int(days), "day")


def _refusals(seen: Overview, current: RunNow | None) -> Html:
    edge = [
        (reason, REASONS.get(reason, ""), count) for reason, count in sorted(seen.refused.items())
    ]
    parts: list[Child] = [tag("h3", "At the edge, since the server was started")]
    heads = ("reason", "what came", "times")
    parts.append(
        table("Refused at the edge", heads, edge, numbers=" times ")
        if edge
        else tag("p", "None.", class_="quiet")
    )
    found = answers(current) if current else Counter[str]()
    rows = [(code, CODES.get(code) or LATE.get(code, ""), n) for code, n in sorted(found.items())]
    parts.append(tag("h3", "Answers that did not count, in this run"))
    heads = ("code", "meaning", "times")
    parts.append(
        table("Answers that did not count", heads, rows, numbers=" times ")
        if rows
        else tag("p", "None.", class_="quiet")
    )
    return join(parts)


def _runs(seen: Overview) -> Html:
    if not seen.runs:
        words = "No run yet. Start one with `stillroom-server run start`."
        return tag("p", prose(words), class_="quiet")
    rows = [
        (
            tag("a", one.run.name, href=f"/run/{one.run.number}"),
            one.now.study or "—",
            one.now.state,
            one.now.stages or "—",
            f"{one.now.last}, {_ago(one.now.last_at, seen.at)}" if one.now.last else "—",
        )
        for one in reversed(seen.runs)
    ]
    return table("Runs, newest first", ("run", "study", "state", "at", "last"), rows)
