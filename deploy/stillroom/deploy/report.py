"""One page that tells a whole study: ``report.html``.

Self-contained and static: no script, no font, nothing fetched; a content security policy in the
page itself forbids it. It reads in light, in dark, on a telephone and on paper.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillroom.common.canonical import file_digest
from stillroom.common.markup import Child, Html, join, moment, plural, tag
from stillroom.common.pages.curves import chart
from stillroom.common.pages.document import POLICY_OF_FILES, document, section
from stillroom.common.pages.participation import banner, exceptions, matrix, timeline
from stillroom.common.pages.reading import (
    Summary,
    held_out,
    loss_curves,
    score_curves,
    site_names,
    stages,
)
from stillroom.common.pages.style import sheet
from stillroom.common.tensorfile import write_durably
from stillroom.deploy.report_parts.prose import headline, lede, stats
from stillroom.deploy.report_parts.tables import boundary, release_table, results

PNG = b"\x89PNG\r\n\x1a\n"


def write_report(
    out: Path,
    *,
    summary: dict[str, Any],
    overlays: Sequence[tuple[str, Path]] = (),
    release: Path | None = None,
) -> Path:
    """Write the report of one study.

    Args:
        out: File to write, usually ``report.html``; replaced in one step.
        summary: As in ``summary.json``; every optional key may be absent.
        overlays: (caption, PNG) of scored cases. Captions must not name a patient.
        release: Folder of the published model; its files are listed with their digests.

    Returns:
        ``out``.
    """
    parts: list[Child] = [
        section("results", "Results", _results_notes(summary), _results(summary)),
        section("cases", "Held-out cases", CASES_NOTES, _films(overlays)) if overlays else None,
        section("boundary", "What crossed the boundary", BOUNDARY_NOTES, boundary(summary)),
        section("timeline", "Stages and rounds", TIMELINE_NOTES, timeline(summary)),
        section("curves", "Learning curves", CURVES_NOTES, _curves(summary)),
        section(
            "participation",
            "Participation",
            PARTICIPATION_NOTES,
            join(matrix(summary), exceptions(summary)),
        ),
        _release(release),
        _log(summary),
        _notes(summary),
    ]
    title = str(summary.get("study_name") or "unnamed study")
    page = join(_header(title, summary), tag("main", parts), _footer(summary))
    write_durably(out, _document(title, page).encode("utf-8"))
    return out


BOUNDARY_NOTES = (
    (
        "What each site sent and received, as the server counted it: tensors of every round, without "
        "framing. Beside them travel only the numbers this page shows."
    ),
    (
        "A site is its certificate; the fingerprint is its SHA-256. Weights sent out only to be "
        "scored belong to no round and are not in these sums."
    ),
)
TIMELINE_NOTES = (
    (
        "Every segment is a round. Stages that need nothing of each other run side by side. "
        "Drawn from the rounds' durations; pauses between them are left out."
    ),
)
CURVES_NOTES = (
    (
        "Loss is each site's own, on its own cases: lines of different sites are not comparable in "
        "height, only in course. Scores lie between 0 and 1, higher is better."
    ),
)
PARTICIPATION_NOTES = (
    (
        "A site is asked only where it can contribute: a teacher's stage asks the owners of its "
        "label. Held-out sites are never asked to train."
    ),
)
CASES_NOTES = (
    "Axial, coronal and sagittal cuts with what the student found.",
    "These pictures show scans. Where the scans are patients', this page must stay where they may.",
)
RELEASE_NOTES = ("What was published. Anybody can recompute these digests from the files.",)


def _document(title: str, body: Html) -> str:
    head = join(
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY_OF_FILES),
        tag("meta", name="referrer", content="no-referrer"),
        # A style sheet is raw text to the parser; it is ours alone and holds no "<".
        tag("style", Html(sheet())),
    )
    return document(f"{title} · stillroom report", body, head=head)


def _header(title: str, summary: Summary) -> Html:
    started = summary.get("started_at")
    when = None if started is None else tag("p", f"Started {moment(started)}", class_="id")
    return tag(
        "header",
        tag("p", "Report of a federated study", class_="kicker"),
        tag("h1", title),
        tag("p", "Study digest ", tag("code", summary.get("study_digest", "—")), class_="id"),
        when,
        banner(summary),
        tag("p", lede(summary), class_="lede"),
        stats(summary),
    )


def _results_notes(summary: Summary) -> tuple[str, ...]:
    pool = "held-out sites" if held_out(summary) else "all sites that scored it"
    return (
        (
            f"Pooled: {pool}, drawn as a caret above the line. A training site scores the cases "
            "it kept out of its own training."
        ),
        (
            "Dice is overlap with the truth, from 0 to 1. A point that is missing, or farther from "
            "the truth than the study tolerates, counts as not found: a miss is a failure, not a gap "
            "in the table. The error is the median over the points that were decoded."
        ),
    )


def _results(summary: Summary) -> Html:
    order = site_names(summary)
    student = results(summary.get("metrics") or {}, order)
    teachers = [
        tag("details", tag("summary", f"Teacher of stage {name}"), results(table, order))
        for name, table in (summary.get("teachers") or {}).items()
        if table
    ]
    return join(headline(summary), student, teachers)


def _curves(summary: Summary) -> Html:
    order = site_names(summary)
    panels: list[Child] = []
    for index, stage in enumerate(stages(summary)):
        name = str(stage.get("name", ""))
        losses, scores = loss_curves(stage), score_curves(summary, stage)
        numbers = [int(record.get("round", 0)) for record in stage.get("rounds") or []] or [0]
        span = min(numbers), max(numbers)
        if losses:
            identity = f"loss-{index}"
            panels.append(
                chart(identity, name, losses, order=order, span=span, unit="training loss")
            )
        for turn, ((label, what), curves) in enumerate(scores.items()):
            unit = "mean Dice" if what == "dice" else "detection rate"
            title, identity = f"{name}: {label}", f"score-{index}-{turn}"
            panels.append(
                chart(
                    identity,
                    title,
                    curves,
                    order=order,
                    span=span,
                    top=1.0,
                    unit=unit,
                    is_sparse=True,
                )
            )
    if not panels:
        return tag("p", "No losses were recorded.", class_="quiet")
    return tag("div", panels, class_="panels")


def _films(overlays: Sequence[tuple[str, Path]]) -> Html:
    figures: list[Child] = []
    for caption, path in overlays:
        data = path.read_bytes() if path.is_file() else b""
        if data.startswith(PNG):
            source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
            picture = tag("img", src=source, alt=caption)
        else:
            picture = tag("p", "This picture could not be read.", class_="quiet")
        figures.append(tag("figure", picture, tag("figcaption", caption)))
    return tag("div", figures, class_="films")


def _release(release: Path | None) -> Html:
    files = [] if release is None else sorted(p for p in release.rglob("*") if p.is_file())
    if release is None or not files:
        nothing = tag("p", "This run published no model.", class_="quiet")
        return section("release", "Release", (), nothing)
    listed = [
        (path.relative_to(release).as_posix(), path.stat().st_size, file_digest(path))
        for path in files
    ]
    return section("release", "Release", RELEASE_NOTES, release_table(listed))


LOG_NOTES = (
    (
        "Every step above is in the consortium's log, signed and published. `stillroom-audit` checks "
        "it, and this release, without the server."
    ),
)


def _log(summary: Summary) -> Html | None:
    found: Mapping[str, Any] | None = summary.get("log")
    if not found:
        return None
    who = ", ".join(found["cosigners"]) or "nobody"
    body = join(
        tag("p", "Entries in the log ", tag("code", found["origin"]), f": {found['size']}."),
        tag("p", "Root ", tag("code", found["root"]), class_="id"),
        tag("p", f"The first {found['cosigned_size']} entries were last cosigned by {who}."),
    )
    return section("log", "Log", LOG_NOTES, body)


def _notes(summary: Summary) -> Html:
    notes = list(dict.fromkeys(str(note) for note in summary.get("notes") or []))
    if not notes:
        body = tag("p", "Nothing out of the ordinary was recorded.", class_="quiet")
    else:
        body = tag("ul", [tag("li", note) for note in notes], class_="notes")
    return section("notes", "Notes", (), body)


def _footer(summary: Summary) -> Html:
    software: Mapping[str, Any] = summary.get("software") or {}
    versions = ", ".join(f"{name} {version}" for name, version in software.items())
    seed = summary.get("seed")
    nodes = [
        f"{site['name']} {site['node_id']}"
        for site in summary.get("sites") or []
        if site.get("node_id") is not None
    ]
    lines = [
        f"Made by {versions}." if versions else None,
        None if seed is None else f"Seed {seed}.",
        f"{plural(len(nodes), 'node')}: {', '.join(nodes)}." if nodes else None,
        "This page is complete in itself: it holds no script and fetches nothing.",
    ]
    return tag("footer", [tag("p", line) for line in lines if line])
