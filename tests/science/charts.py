"""Pictures of the page as SVG, drawn by hand: ratios beside their gates, lines, bars, points over bytes.

Every seed is a dot in every picture; a line, a bar or a diamond is the median.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 920, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 270, 86, 56
INK, FAINT, GRID = "#1d1f21", "#5f6368", "#e6e3dc"
COLOURS = ("#1f6f8b", "#c8553d", "#6a8d3f", "#8a5a9e", "#b9852c", "#5b6770", "#2f9c8f", "#a03060")
PASS, FAIL, OPEN = "#3b7d3a", "#b3362b", "#8a8a8a"
ROW = 24
"""Height of a line of words."""

Spread = Sequence[float]
"""The figures of all seeds at one place."""


@dataclass(frozen=True, slots=True)
class Words:
    """What stands around a picture.

    Attributes:
        title: Above it.
        under: Under the title: what is shown, and which way is better.
        upright, across: Along the axes.
    """

    title: str
    under: str
    upright: str
    across: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One gate of a claim, turned so that more is better and its bound lies at 1.

    Attributes:
        name: Of the gate.
        ratios: Of every seed, turned.
        interval: Of their median, turned.
        verdict: Of the gate.
    """

    name: str
    ratios: Spread
    interval: tuple[float, float]
    verdict: str


def forest(words: Words, rows: Sequence[Held]) -> str:
    """A row per gate: its interval, its median and every seed, on a logarithmic axis around the bound."""
    values = [v for row in rows for v in (*row.ratios, *row.interval) if v > 0]
    far = max([0.25, *(abs(math.log2(v)) for v in values)])
    left, right, height = 230, 150, TOP + ROW * len(rows) + BOTTOM
    room = WIDTH - left - right

    def x_of(value: float) -> float:
        return left + room * (0.5 + math.log2(max(value, 2.0**-far)) / (2.1 * far))

    bottom = height - BOTTOM
    parts = _heading(words)
    for mark in _ratios(far):
        x = x_of(mark)
        parts.append(_line(x, TOP - 8, x, bottom, INK if mark == 1 else GRID))
        parts.append(_text(x, bottom + 18, f"{mark:.3g}", "middle"))
    parts.append(_text(x_of(1.0) - 8, TOP - 14, "does not hold", "end"))
    parts.append(_text(x_of(1.0) + 8, TOP - 14, "holds", "start"))
    parts.append(_text(left + room / 2, bottom + 40, words.across, "middle"))
    for number, row in enumerate(rows):
        y = TOP + ROW * (number + 0.5)
        colour = {"PASS": PASS, "FAIL": FAIL}.get(row.verdict, OPEN)
        parts.append(_text(left - 12, y + 4, row.name, "end", INK))
        low, high = (x_of(value) for value in row.interval)
        parts.append(_line(low, y, high, y, colour, width=3))
        parts += [_dot(x_of(value), y, colour, 3.2) for value in row.ratios]
        parts.append(_diamond(x_of(_middle(row.ratios)), y, colour))
        parts.append(_text(WIDTH - right + 14, y + 4, row.verdict, "start", colour, bold=True))
    return _page(parts, height)


def lines(words: Words, series: Mapping[str, Mapping[str, Spread]]) -> str:
    """A line of medians per series over places in their order, named at its end.

    Args:
        words: Around it.
        series: Name -> place -> the seeds' figures; every series has the same places.
    """
    places = list(next(iter(series.values())))
    values = [v for one in series.values() for spread in one.values() for v in spread]
    y_of, marks = _scale(values)
    step = (WIDTH - LEFT - RIGHT) / max(len(places), 1)
    xs = [LEFT + step * (number + 0.5) for number in range(len(places))]
    parts = _frame(words, marks, y_of)
    parts += [_text(x, HEIGHT - BOTTOM + 20, p, "middle") for x, p in zip(xs, places, strict=True)]
    ends = {}
    for number, (name, one) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, y_of(_middle(one[p]))) for x, p in zip(xs, places, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f'fill="none" stroke="{colour}" stroke-width="2.5"'
        parts.append(f'<polyline points="{path}" {style}/>\n')
        for x, place in zip(xs, places, strict=True):
            parts += [_dot(x, y_of(value), colour) for value in one[place]]
        ends[name] = (points[-1][1], colour)
    heights = _apart([y for y, _ in ends.values()])
    for (name, (y, colour)), at in zip(ends.items(), heights, strict=True):
        x = WIDTH - RIGHT + 16
        parts.append(_line(xs[-1] + 8, y, x - 4, at, colour, width=1))
        parts.append(_text(x, at + 4, name, "start", colour, bold=True))
    return _page(parts)


def bars(words: Words, groups: Mapping[str, Mapping[str, Spread]]) -> str:
    """A bar of the median per group and series from zero, and a dot for every seed.

    Args:
        words: Around it.
        groups: Group -> series -> the seeds' figures.
    """
    names = list(dict.fromkeys(name for one in groups.values() for name in one))
    values = [v for one in groups.values() for spread in one.values() for v in spread]
    y_of, marks = _scale([0.0, *values])
    parts = _frame(words, marks, y_of)
    room = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    width = 0.8 * room / max(len(names), 1)
    for at, (group, one) in enumerate(groups.items()):
        left = LEFT + room * at + 0.1 * room
        parts.append(_text(left + 0.4 * room, HEIGHT - BOTTOM + 20, group, "middle", INK))
        for number, name in enumerate(names):
            if name not in one:
                continue
            x, top = left + width * number, y_of(_middle(one[name]))
            colour = COLOURS[number % len(COLOURS)]
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{width * 0.9:.1f}" '
                f'height="{y_of(0.0) - top:.1f}" fill="{colour}" fill-opacity="0.45"/>\n'
            )
            parts += [_dot(x + width * 0.45, y_of(value), colour) for value in one[name]]
    parts += [_key(k, name, COLOURS[k % len(COLOURS)]) for k, name in enumerate(names)]
    return _page(parts)


def scatter(words: Words, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Points over a logarithmic axis of bytes: a diamond for the median, a dot for every seed.

    Args:
        words: Around it.
        series: Name -> (bytes, figure) of every seed.
    """
    points = [point for one in series.values() for point in one]
    y_of, marks = _scale([y for _, y in points])
    powers = [math.log10(max(x, 1.0)) for x, _ in points]
    low, high = math.floor(min(powers)), math.ceil(max(powers) + 1e-9)
    room = (WIDTH - LEFT - RIGHT) / max(high - low, 1)

    def x_of(size: float) -> float:
        return LEFT + room * (math.log10(max(size, 1.0)) - low)

    parts = _frame(words, marks, y_of)
    for power in range(low, high + 1):
        x = x_of(10.0**power)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, GRID))
        parts.append(_text(x, HEIGHT - BOTTOM + 20, _bytes(10.0**power), "middle"))
    for number, (name, one) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += [_dot(x_of(x), y_of(y), colour, 3.5) for x, y in one]
        middle = _middle([y for _, y in one])
        parts.append(_diamond(x_of(one[0][0]), y_of(middle), colour))
        parts.append(_key(number, f"{name} ({_bytes(one[0][0])})", colour))
    return _page(parts)


def _scale(values: Sequence[float]) -> tuple["_Axis", list[float]]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-3)))
    if (high - low) / step < 3:
        step /= 2 if (high - low) / step >= 1.5 else 5
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    marks = [step * k for k in range(first, last + 1)]
    return _Axis(marks[0], marks[-1]), marks


class _Axis:
    """Figure -> height in the picture."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _heading(words: Words) -> list[str]:
    return [
        _text(20, 28, words.title, "start", INK, bold=True, size=18),
        _text(20, 48, words.under, "start", size=13),
    ]


def _frame(words: Words, marks: Sequence[float], y_of: _Axis) -> list[str]:
    parts = _heading(words)
    parts.append(_text(20, 72, words.upright, "start", INK))
    for mark in marks:
        y, end = y_of(mark), WIDTH - RIGHT
        parts.append(_line(LEFT, y, end, y, GRID))
        parts.append(_text(LEFT - 8, y + 4, f"{mark:.3g}", "end"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - BOTTOM + 42, words.across, "middle", INK))
    return parts


def _apart(heights: Sequence[float], least: float = 17.0) -> list[float]:
    """The same heights in the same order, pushed apart until no two are nearer than ``least``."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + least)
    over = max([0.0, *(y - (HEIGHT - BOTTOM) for y in placed)])
    return [y - over for y in placed]


def _ratios(far: float) -> list[float]:
    """Round ratios on an axis that reaches ``far`` doublings to both sides."""
    fine = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
    marks = fine if far < 0.6 else (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
    if far > 2:
        marks = tuple(2.0**k for k in range(-math.floor(far), math.floor(far) + 1))
    return [mark for mark in marks if abs(math.log2(mark)) <= 1.04 * far]


def _key(number: int, name: str, colour: str) -> str:
    x, y = WIDTH - RIGHT + 16, TOP + 2 + ROW * number
    square = f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>\n'
    return square + _text(x + 19, y + 11, name, "start", INK)


def _text(
    x: float,
    y: float,
    words: str,
    anchor: str,
    colour: str = FAINT,
    *,
    bold: bool = False,
    size: int = 13,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {where} fill="{colour}"{weight}>{escape(words)}</text>\n'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>\n'


def _dot(x: float, y: float, colour: str, radius: float = 3) -> str:
    style = f'fill="{colour}" fill-opacity="0.75"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}/>\n'


def _diamond(x: float, y: float, colour: str) -> str:
    corners = f"{x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 7:.1f},{y:.1f}"
    return f'<polygon points="{corners}" fill="{colour}" stroke="#ffffff"/>\n'


def _middle(spread: Spread) -> float:
    ordered = sorted(spread)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _bytes(value: float) -> str:
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} B"


def _page(parts: Sequence[str], height: float = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "".join(parts) + "</svg>\n"
    )
