"""The auditor's page: what was checked, what was found, who took part, what left each site. Pure.

Self-contained and static: no script, no font, nothing fetched; a content security policy in the
page forbids it. It reads on a screen and on paper, where it has a place for a signature.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from stillroom.common.markup import Child, Html, join, tag
from stillroom.server.audit.case import Case
from stillroom.server.audit.checks import Check
from stillroom.server.audit.findings import Finding, verdict, worst
from stillroom.server.audit.report_participation import absences, matrices, subset_notice
from stillroom.server.audit.report_tables import (
    departures,
    labels,
    refusals,
    releases,
    scores,
    timeline,
)

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
MOST_FIRST = 12
"""Findings that stand at the top of the page."""
HEADLINES = {
    "ok": "The log holds",
    "warning": "The log holds, with warnings",
    "FAILED": "Something here does not hold",
}
NOT_PROVEN = (
    "That a site's signing key is that site's, unless the site itself told the auditor (--witness).",
    "That nobody was shown another log, beyond those who cosigned or whose kept checkpoints were given.",
    "That a site learned from the cases it counts, or that its ledger is complete: both are its own word.",
    "That the server's clock was right.",
    "That a sum was computed as its record says: that is what a replay of the round shows.",
    "That weights hold no trace of a patient.",
)


def page(
    case: Case, findings: Sequence[Finding], skipped: Sequence[Check[Any]], checked: str
) -> str:
    """The whole page as HTML; ``checked`` says when, and with which program."""
    body = join(
        _header(case, findings, checked),
        tag(
            "main",
            _section(
                "Verification",
                "One line a finding. Numbers are those of docs/auditors/checks.md, which says of each what "
                "it compares and what a failure means; they never change.",
                _findings(findings, skipped),
            ),
            _section("Timeline", "What happened, in the order of the log.", timeline(case.history)),
            _section(
                "Participation",
                "A cell is a site in a round: what became of its answer.",
                join(
                    matrices(case.runs()),
                    tag("h3", "Not asked, or not counted"),
                    absences(case.runs()),
                ),
            ),
            _section(
                "Labels made by teachers",
                "How many scans at each site a teacher labelled (written), a site's own label was kept "
                "for (kept), or a filter left unlabelled (incomplete). Counts below the study's smallest "
                "cohort were made 0 at the site.",
                labels(case),
            ),
            _section(
                "What left each site",
                "Files of weights, as the log has them; where a site's ledger was given, beside it "
                "what the site itself wrote down.",
                departures(case),
            ),
            _section("Refusals", "Every answer that did not count, and why.", refusals(case)),
            _section(
                "Scores",
                "Which models were scored, and by whom. The numbers are in the run's folder, in files "
                "of these digests, and in the release's model card.",
                scores(case.history),
            ),
            _section("Releases", "What was published of it.", releases(case.history)),
            _section("What this does not prove", "", _list(NOT_PROVEN)),
            _signatures(),
        ),
        tag("footer", "This page is complete in itself: it holds no script and fetches nothing."),
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"Audit of {case.consortium.name}"),
        # A style sheet is raw text to the parser; it is ours alone and holds no "<".
        tag("style", Html(_sheet())),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _sheet() -> str:
    return files("stillroom.server.audit").joinpath("report.css").read_text("utf-8")


def _header(case: Case, findings: Sequence[Finding], checked: str) -> Html:
    head, result = case.contents.head, worst(findings)
    good = (
        []
        if case.contents.note is None
        else case.cosigned(case.contents.note, case.contents.size)[0]
    )
    last = [entry.time for _, entry in case.contents.numbered()]
    facts: list[tuple[str, str]] = [
        ("Checked", checked),
        ("Log", case.log.name),
        ("Entries", "unknown" if head is None else str(head.size)),
        ("Root", "unknown" if head is None else head.root.hex()),
        ("First and last entry", f"{last[0]} to {last[-1]}" if last else "none"),
        ("Cosigned by", ", ".join(cosigned.name for cosigned in good) or "nobody"),
        ("CA, SHA-256", case.consortium.ca_sha256),
        ("consortium.json, SHA-256", hashlib.sha256(case.consortium.raw).hexdigest()),
        ("Log's key", case.log.encode()),
        ("Ledgers given", ", ".join(ledger.name for ledger in case.ledgers) or "none"),
        ("Checkpoints given", ", ".join(seen.name for seen in case.seen) or "none"),
        ("Release given", "no" if case.release is None else "yes"),
    ]
    return tag(
        "header",
        tag("p", "Audit of a federated study's log", class_="kicker"),
        tag("h1", case.consortium.name),
        tag(
            "div",
            tag("strong", HEADLINES[result]),
            verdict(findings),
            _to_read(findings),
            class_=f"verdict {result}",
        ),
        subset_notice(case.runs()),
        tag(
            "dl", [join(tag("dt", n), tag("dd", tag("code", v))) for n, v in facts], class_="facts"
        ),
    )


def _to_read(findings: Sequence[Finding]) -> Html | None:
    """What failed and what must be known, before everything that is as it should be."""
    told = sorted((f for f in findings if f.result != "ok"), key=lambda f: f.result != "FAILED")
    if not told:
        return None
    items = [
        tag(
            "li",
            f"{f.result}, {f.number} {f.check}: {f.where + ': ' if f.where else ''}{f.meaning}",
        )
        for f in told[:MOST_FIRST]
    ]
    more = len(told) - MOST_FIRST
    return join(tag("ul", items), tag("p", f"And {more} more, below.") if more > 0 else None)


def _section(heading: str, about: str, body: Child) -> Html:
    return tag(
        "section", tag("h2", heading), tag("p", about, class_="about") if about else None, body
    )


def _findings(findings: Sequence[Finding], skipped: Sequence[Check[Any]]) -> Html:
    rows = [
        tag(
            "tr",
            tag("td", finding.number, class_="num"),
            tag("td", finding.check),
            tag("td", finding.result, class_=f"nowrap {finding.result}"),
            tag("td", finding.where),
            tag("td", finding.meaning),
        )
        for finding in findings
    ]
    names = ("No.", "Check", "Result", "Where", "What it means")
    head = tag("thead", tag("tr", [tag("th", name) for name in names]))
    left = ", ".join(f"{check.number} ({check.title})" for check in skipped)
    return join(
        tag("div", tag("table", head, tag("tbody", rows)), class_="scroll"),
        tag("p", f"Not made, because nothing was given to compare with: {left}.", class_="quiet")
        if left
        else None,
    )


def _list(items: Sequence[str]) -> Html:
    return tag("ul", [tag("li", item) for item in items], class_="quiet")


def _signatures() -> Html:
    return tag(
        "div",
        [tag("span", what) for what in ("Place and date", "Name", "Signature")],
        class_="sign",
    )
