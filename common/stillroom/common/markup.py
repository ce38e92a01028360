"""HTML that escapes by construction, and numbers as people read them. Pure.

A number and its unit are joined by a no-break space, so that no line ends between them.
"""

import html
from collections.abc import Iterable
from datetime import UTC, datetime


class Html(str):
    """Text that is HTML already. Every other string is escaped when it becomes a child."""

    __slots__ = ()


WORDS = (
    "No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve",
)  # fmt: skip

VOID = frozenset({"img", "meta", "br", "col", "link", "input"})

Child = object
"""``Html`` as it is, None left out, an iterable child by child, anything else escaped."""


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """One element.

    Args:
        name: Tag name.
        children: See ``Child``.
        attributes: ``class_`` for ``class``, underscores for hyphens; None leaves one out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after another, without an element around them."""
    return Html("".join(_render(child) for child in children))


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(child)
    if isinstance(child, Iterable):
        return "".join(_render(item) for item in child)
    return html.escape(str(child))


def prose(text: str) -> Html:
    """A sentence in which what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return join(text)
    return join(tag("code", part) if index % 2 else part for index, part in enumerate(parts))


def data_size(count: float) -> str:
    """Bytes in decimal units, three digits: ``12.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f}\u00a0B" if unit == "B" else f"{count:.3g}\u00a0{unit}"
        count /= 1000
    return f"{count:.3g}\u00a0TB"


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 12 s`` or ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def moment(value: object) -> str:
    """A time given as seconds since the epoch or ISO 8601, in UTC; as it is when neither."""
    try:
        if isinstance(value, (int, float)):
            when = datetime.fromtimestamp(value, UTC)
        else:
            when = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return str(value)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def clock(value: datetime) -> str:
    """A time for tables, in UTC: ``28 Nov, 13:59``."""
    when = value.astimezone(UTC)
    return f"{when.day}\u00a0{when:%b, %H:%M}"


def percent(share: float) -> str:
    """A share in [0, 1] as whole percent."""
    return f"{100 * share:.0f}\u00a0%"


def short(digest: object) -> Html:
    """The first 16 characters of a digest, grouped by four; all of it on hover and when copied."""
    text = str(digest)
    head = " ".join(text[start : start + 4] for start in range(0, 16, 4)).strip()
    return tag("code", head, "…" if len(text) > 16 else "", title=text, class_="digest")


def plural(count: int, noun: str) -> str:
    """``1 round``, ``12 rounds``; small numbers stay digits, as in tables."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listing(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    items = list(names)
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def tls_name(version: object) -> str:
    """``TLSv1.3``, as OpenSSL says it, as people say it."""
    return "unknown" if version is None else str(version).replace("TLSv", "TLS\u00a0")


def spelled(count: int) -> str:
    """A number that begins a sentence: in letters up to twelve."""
    return WORDS[count] if count < len(WORDS) else str(count)
