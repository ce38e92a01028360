"""What has left this hospital, as tables. Pure."""

from collections import Counter

from stillroom.client.ledger import Line
from stillroom.client.page.overview import SiteOverview
from stillroom.common.encoding import most_bytes
from stillroom.common.errors import CODES
from stillroom.common.markup import Child, Html, clock, data_size, join, plural, short, tag
from stillroom.common.pages.document import NOTHING, facts, section, table
from stillroom.common.study import PreparedStudy

SHOWN = 30
"""Lines with their numbers."""
LEFT_NOTES = (
    (
        "From this hospital's own ledger: a line is on the disk before anything is sent, and every line "
        "holds the hash of the one before."
    ),
    (
        "Scans, names, dates, tags, file names and labels never leave. All lines: "
        "`stillroom-client ledger show`."
    ),
)
REFUSED_NOTES = (
    "What the gate stopped, or would not have done here. The server is told the code and nothing else.",
)
MESSAGES = {
    "inventory": "how many scans there are",
    "round": "an update",
    "label": "that scans were labelled here",
    "stage": "scores",
}
"""Kind of answer -> what it is to a reader."""


def left_sections(seen: SiteOverview) -> Html:
    """What left, and what was refused."""
    return join(
        section("left", "What has left?", LEFT_NOTES, _left(seen)),
        section("refused", "What was refused?", REFUSED_NOTES, _refused(seen)),
    )


def _left(seen: SiteOverview) -> Html:
    left = seen.left
    pairs: list[tuple[str, Child]] = [
        ("files of weights", left.files),
        ("their size", data_size(left.bytes)),
        ("answers in all", left.messages),
        ("lines of the ledger", left.checked.lines),
    ]
    if not left.messages:
        return join(facts(pairs), tag("p", "Nothing has left this hospital yet.", class_="quiet"))
    sent = [line for line in left.newest if line.kind == "sent"]
    times = Counter(_same(line) for line in sent)
    once = list({_same(line): line for line in reversed(sent)}.values())[::-1]
    shown = [_line(seen, line, times[_same(line)]) for line in once[:SHOWN]]
    heads = ("answer", "when", "tensors", "size", "SHA-256", "numbers", "decision")
    rest = len(once) > SHOWN or left.messages > len(sent)
    return join(
        facts(pairs),
        _totals(seen),
        tag(
            "h3", f"The newest {len(shown)} of {left.messages} answers" if rest else "Every answer"
        ),
        table("What left, newest first", heads, shown, numbers=" tensors size "),
    )


def _same(line: Line) -> tuple[str, ...]:
    """Equal for an answer that was given again, because it was asked for again."""
    return line.study, line.message, line.stage, str(line.round), line.content or str(line.sequence)


def _totals(seen: SiteOverview) -> Html | None:
    if not seen.left.stages:
        return None
    rows = []
    for (study, stage), total in seen.left.stages.items():
        prepared = seen.prepared
        here = prepared is not None and study == prepared.digest
        most = _most(prepared, stage) if prepared is not None and here else NOTHING
        name = stage if here else f"{stage}, of study {study[:8]}"
        rows.append((name, total.files, data_size(total.bytes), most))
    return table(
        "Totals by stage", ("stage", "files", "size", "at most"), rows, numbers=" files size "
    )


def _most(prepared: PreparedStudy, stage: str) -> str:
    """What was consented to: no more can leave in all rounds of a stage."""
    if stage not in prepared.stages:
        return NOTHING
    one = prepared.study.stage_named(stage)
    size = most_bytes(one.exchange.encoding, prepared.stages[stage].manifest) * one.rounds
    return data_size(size)


def _line(seen: SiteOverview, line: Line, times: int) -> list[Child]:
    what = f"{line.stage}, round {line.round}" if line.round else line.stage or line.message
    said = MESSAGES.get(line.message, line.message)
    return [
        join(what, tag("small", said)),
        clock(line.time),
        _tensors(seen.prepared, line),
        join(data_size(line.bytes), tag("small", line.encoding)) if line.content else "no file",
        short(line.content) if line.content else "—",
        _numbers(line),
        join(
            line.decision if times == 1 else f"{line.decision}, given {times} times",
            _receipt(seen, line),
        ),
    ]


def _tensors(prepared: PreparedStudy | None, line: Line) -> Child:
    if not line.content or prepared is None or prepared.digest != line.study:
        return "—"
    stage = prepared.stages.get(line.stage)
    return "—" if stage is None else len(stage.manifest.tensors)


def _numbers(line: Line) -> Child:
    found = {f"cases of {name}": float(n) for name, n in line.samples.items()} | line.metrics
    if not found:
        return line.code or "none"
    items = [tag("li", tag("code", name), f" {value:g}") for name, value in sorted(found.items())]
    head = tag("summary", plural(len(items), "number"))
    return tag("details", head, tag("ul", items), class_="numbers")


def _receipt(seen: SiteOverview, line: Line) -> Child:
    if not line.content or not seen.consortium:
        return None
    words = {"ok": ("receipt holds", "yes"), "FAILED": ("receipt does not hold", "no")}
    text, kind = words.get(seen.receipts.get(line.content, ""), ("receipt awaited", "wait"))
    return tag("small", text, class_=kind)


def _refused(seen: SiteOverview) -> Html:
    if not seen.left.refused:
        return tag("p", "Nothing.", class_="quiet")
    totals = [
        (tag("code", code), CODES.get(code, ""), count)
        for code, count in sorted(seen.left.refused.items())
    ]
    lines = [line for line in seen.left.newest if line.kind in {"refused", "withheld"}][:SHOWN]
    rows = [
        (
            f"{line.stage}, round {line.round}" if line.round else line.stage or "—",
            clock(line.time),
            {"withheld": "wanted no more"}.get(line.kind, line.decision),
            tag("code", line.code) if line.code else "—",
        )
        for line in lines
    ]
    heads = ("code", "meaning", "times")
    return join(
        table("Refusals by code", heads, totals, numbers=" times "),
        table("Refusals, newest first", ("of", "when", "decision", "code"), rows),
    )
