"""A whole page and the parts that pages share: sections, tables, alerts, facts. Pure."""

from collections.abc import Iterable, Sequence

from stillroom.common.markup import Child, Html, join, prose, tag

POLICY_OF_FILES = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
"""Of a page that is one file, complete in itself."""

NOTHING = "—"
"""In a cell that has nothing to say; a card leaves it out."""


def document(title: str, body: Child, *, head: Child = None) -> str:
    """A page as a browser takes it.

    Args:
        title: Of the window.
        body: What is in ``<body>``.
        head: What else is in ``<head>``: the style sheet, a policy.
    """
    always = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
    )
    whole = join(tag("head", always, head), tag("body", body))
    return f'<!doctype html>\n<html lang="en">{whole}</html>\n'


def section(identity: str, heading: str, notes: Sequence[str], body: Child) -> Html:
    """A heading with what one should know beside it, and the body."""
    about = [tag("p", prose(note), class_="about") for note in notes]
    side = tag("div", tag("h2", heading, id=f"{identity}-h"), about)
    return tag(
        "section", side, tag("div", body, class_="body"), id=identity,
        aria_labelledby=f"{identity}-h",
    )  # fmt: skip


def alert(heading: str, body: Child, *, kind: str = "alert") -> Html:
    """What a reader must know before any number."""
    return tag("div", tag("strong", heading), body, class_=kind, role="alert")


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """The strip of facts under a title."""
    items = [tag("div", tag("dt", name), tag("dd", value), class_="stat") for name, value in pairs]
    return tag("dl", items, class_="stats")


def scrolled(table: Html) -> Html:
    """A wide table scrolls inside its own frame; the page itself never scrolls sideways."""
    return tag("div", table, class_="scroll", tabindex="0")


def table_head(cells: Sequence[Child]) -> Html:
    """Column headings."""
    return tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in cells]))


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Child]], *, numbers: str = ""
) -> Html:
    """A table whose rows become little cards where the screen is narrow, in a frame of its own.

    Args:
        caption: What it shows, for those who do not see what stands above it.
        heads: Of the columns; the first column heads its row.
        rows: As many cells each.
        numbers: Names of columns of numbers, with spaces around each.
    """
    body = [
        tag(
            "tr",
            tag("th", first, scope="row"),
            [
                tag("td", cell, data_label=head, class_=_kind(head, cell, numbers))
                for head, cell in zip(heads[1:], rest, strict=True)
            ],
        )
        for first, *rest in rows
    ]
    hidden = tag("caption", caption, class_="sr")
    return scrolled(
        tag("table", hidden, table_head(heads), tag("tbody", body), class_="wide stack")
    )


def _kind(head: str, cell: Child, numbers: str) -> str | None:
    if cell == NOTHING:
        return "none"
    return "num" if f" {head} " in numbers else None
