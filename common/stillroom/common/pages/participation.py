"""Who took part in what, and when. Pure."""

from collections.abc import Mapping
from typing import Any

from stillroom.common.markup import Child, Html, duration, join, listing, plural, tag
from stillroom.common.pages.document import alert
from stillroom.common.pages.marks import status_mark
from stillroom.common.pages.reading import (
    Summary,
    absent_sites,
    gaps,
    rounds,
    site_names,
    stages,
    starts,
)

ROUNDS_PER_BLOCK = 12
"""So that a block of the matrix fits a telephone held upright."""

WORDS = {
    "admitted": "counted",
    "refused": "refused",
    "failed": "failed",
    "late": "late",
    "not_asked": "not asked",
}


def banner(summary: Summary) -> Html | None:
    """What a reader must know before any number; None when nothing is wrong."""
    if summary.get("status") == "failed":
        error = summary.get("error") or {}
        said = join(
            tag("p", tag("code", error.get("code", "")), " ", error.get("what", "")),
            tag("p", error.get("fix", "")),
        )
        return alert("This study did not finish", said)
    missing, absent = gaps(summary), absent_sites(summary)
    if not missing and not absent and summary.get("complete_participation") is not False:
        return None
    total = sum(1 for _ in rounds(summary))
    affected = len({(gap.stage, gap.round) for gap in missing})
    lines: list[Child] = []
    if missing:
        sites = listing(sorted({gap.site for gap in missing}))
        lines.append(
            tag("p", f"{affected} of {plural(total, 'round')} went on without the work of a site "
                f"that was asked: {sites}.")
        )  # fmt: skip
    if absent:
        lines.append(tag("p", f"No work of {listing(absent)} counts in any round."))
    lines.append(
        tag("p", "The results below are not those of the whole consortium. ",
            tag("a", "Every gap and its reason", href="#participation"), ".")
    )  # fmt: skip
    return alert("Partial participation", lines)


def timeline(summary: Summary) -> Html:
    """One row per stage on one clock, its rounds as segments."""
    rows = starts(summary)
    end = max((start + length for row in rows for start, length in row), default=0.0) or 1.0
    body: list[Child] = []
    for stage, row in zip(stages(summary), rows, strict=True):
        total = sum(length for _, length in row)
        bars = [
            tag(
                "rect",
                tag("title", f"round {number}: {duration(length)}"),
                x=f"{1000 * start / end:.2f}",
                width=f"{max(1000 * length / end - 1.2, 0.8):.2f}",
                y=0,
                height=14,
            )
            for number, (start, length) in enumerate(row, 1)
        ]
        words = f"{plural(len(row), 'round')}, {duration(total)}"
        picture = tag(
            "svg",
            tag("title", f"{stage.get('name')}: {words}"),
            bars,
            viewBox="0 0 1000 14",
            preserveAspectRatio="none",
            role="img",
            class_="bars",
        )
        name = tag("div", tag("b", stage.get("name", "")), " ", tag("i", stage.get("recipe", "")))
        body.append(tag("li", name, picture, tag("div", words, class_="num")))
    scale = tag("div", tag("span", "0"), tag("span", duration(end)), class_="scale")
    return join(tag("ol", body, class_="timeline"), scale)


def matrix(summary: Summary) -> Html:
    """A block per stage: a row per site, a cell per round."""
    sites = site_names(summary)
    blocks: list[Child] = []
    for stage in stages(summary):
        records = list(stage.get("rounds") or [])
        for start in range(0, max(len(records), 1), ROUNDS_PER_BLOCK):
            part = records[start : start + ROUNDS_PER_BLOCK]
            blocks.append(_block(str(stage.get("name", "")), part, sites))
    key = [
        tag("span", status_mark(status, word), word, class_="site")
        for status, word in WORDS.items()
    ]
    return join(tag("p", key, class_="legend"), tag("div", blocks, class_="blocks"))


def _block(stage: str, records: list[dict[str, Any]], sites: list[str]) -> Html:
    head = tag(
        "tr",
        tag("th", tag("span", "site", class_="sr"), scope="col"),
        [tag("th", record.get("round", ""), scope="col") for record in records],
    )
    rows = [
        tag(
            "tr",
            tag("th", site, scope="row"),
            [tag("td", _cell(stage, record, site)) for record in records],
        )
        for site in sites
    ]
    empty = None if records else tag("p", "No round was finished.", class_="quiet")
    table = tag("table", tag("caption", stage), tag("thead", head), tag("tbody", rows))
    return tag("div", table, empty, class_="block")


def _cell(stage: str, record: Mapping[str, Any], site: str) -> Html:
    entry = (record.get("sites") or {}).get(site) or {}
    status = str(entry.get("status") or "not_asked")
    text = f"{site}, {stage}, round {record.get('round')}: {WORDS.get(status, status)}"
    if entry.get("reason"):
        text += f" ({entry['reason']})"
    samples = entry.get("samples") or {}
    if samples:
        text += f", {max(samples.values())} cases"
    return status_mark(status, text)


def exceptions(summary: Summary) -> Html:
    """Every gap in words; one sentence when there is none."""
    missing = gaps(summary)
    if not missing:
        words = "Every site that was asked answered in every round, and every answer counted."
        return tag("p", words, class_="quiet")
    items = [
        tag("li", tag("b", gap.site), f", {gap.stage}, round {gap.round}, ",
            tag("em", WORDS.get(gap.status, gap.status)), f": {gap.reason}")
        for gap in missing
    ]  # fmt: skip
    return tag("ul", items, class_="gaps")
