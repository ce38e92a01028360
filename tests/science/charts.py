"""Pictures of the page as SVG, drawn by hand: lines over named places, bars in groups, points over bytes."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 60, 230, 44, 50
INK, FAINT, GRID = "#222222", "#6d6d6d", "#e4e0d8"
COLOURS = ("#1f6f8b", "#c8553d", "#6a8d3f", "#8a5a9e", "#b9933c", "#5b6770", "#3d9c97", "#a03060")

Spread = Sequence[float]
"""The figures of all seeds at one place."""


def lines(title: str, what: str, series: Mapping[str, Mapping[str, Spread]]) -> str:
    """A line of medians per series over places in their order, and a dot for every seed.

    Args:
        title: Above the picture.
        what: Along the upright axis.
        series: Name -> place -> the seeds' figures; every series has the same places.
    """
    places = list(next(iter(series.values())))
    values = [v for one in series.values() for spread in one.values() for v in spread]
    y_of, marks = _scale(values)
    step = (WIDTH - LEFT - RIGHT) / max(len(places), 1)
    xs = [LEFT + step * (number + 0.5) for number in range(len(places))]
    parts = _frame(title, what, marks, y_of)
    parts += [_text(x, HEIGHT - BOTTOM + 20, p, "middle") for x, p in zip(xs, places, strict=True)]
    for number, (name, one) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, y_of(_middle(one[p]))) for x, p in zip(xs, places, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>\n'
        )
        for x, place in zip(xs, places, strict=True):
            parts += [_dot(x, y_of(value), colour) for value in one[place]]
        parts.append(_key(number, name, colour))
    return _page(parts)


def bars(title: str, what: str, groups: Mapping[str, Mapping[str, Spread]]) -> str:
    """A bar of the median per group and series from zero, and a dot for every seed.

    Args:
        title: Above the picture.
        what: Along the upright axis.
        groups: Group -> series -> the seeds' figures.
    """
    names = list(dict.fromkeys(name for one in groups.values() for name in one))
    values = [v for one in groups.values() for spread in one.values() for v in spread]
    y_of, marks = _scale([0.0, *values])
    parts = _frame(title, what, marks, y_of)
    room = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    width = 0.8 * room / max(len(names), 1)
    for at, (group, one) in enumerate(groups.items()):
        left = LEFT + room * at + 0.1 * room
        parts.append(_text(left + 0.4 * room, HEIGHT - BOTTOM + 20, group, "middle"))
        for number, name in enumerate(names):
            if name not in one:
                continue
            x, top = left + width * number, y_of(_middle(one[name]))
            colour = COLOURS[number % len(COLOURS)]
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{width * 0.9:.1f}" '
                f'height="{y_of(0.0) - top:.1f}" fill="{colour}" fill-opacity="0.55"/>\n'
            )
            parts += [_dot(x + width * 0.45, y_of(value), colour) for value in one[name]]
    parts += [_key(k, name, COLOURS[k % len(COLOURS)]) for k, name in enumerate(names)]
    return _page(parts)


def scatter(title: str, what: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Points over a logarithmic axis of bytes, a dot for every seed.

    Args:
        title: Above the picture.
        what: Along the upright axis.
        series: Name -> (bytes, figure) of every seed.
    """
    points = [point for one in series.values() for point in one]
    y_of, marks = _scale([y for _, y in points])
    powers = [math.log10(max(x, 1.0)) for x, _ in points]
    low, high = math.floor(min(powers)), math.ceil(max(powers) + 1e-9)
    room = (WIDTH - LEFT - RIGHT) / max(high - low, 1)
    parts = _frame(title, what, marks, y_of)
    parts += [
        _text(LEFT + room * (power - low), HEIGHT - BOTTOM + 20, _bytes(10.0**power), "middle")
        for power in range(low, high + 1)
    ]
    for number, (name, one) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += [
            _dot(LEFT + room * (math.log10(max(x, 1.0)) - low), y_of(y), colour, 5) for x, y in one
        ]
        parts.append(_key(number, name, colour))
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


def _frame(title: str, what: str, marks: Sequence[float], y_of: _Axis) -> list[str]:
    parts = [
        _text(10, 20, title, "start", INK, bold=True),
        _text(10, 37, what, "start"),
    ]
    for mark in marks:
        y, end = y_of(mark), WIDTH - RIGHT
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="{GRID}"/>\n')
        parts.append(_text(LEFT - 6, y + 4, f"{mark:.3g}", "end"))
    return parts


def _key(number: int, name: str, colour: str) -> str:
    x, y = WIDTH - RIGHT + 16, TOP + 6 + 20 * number
    square = f'<rect x="{x}" y="{y}" width="11" height="11" fill="{colour}"/>\n'
    return square + _text(x + 17, y + 10, name, "start", INK)


def _text(
    x: float, y: float, words: str, anchor: str, colour: str = FAINT, *, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}"{weight}>{escape(words)}</text>\n'


def _dot(x: float, y: float, colour: str, radius: int = 3) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>\n'


def _middle(spread: Spread) -> float:
    ordered = sorted(spread)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _bytes(value: float) -> str:
    for size, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _page(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "".join(parts) + "</svg>\n"
    )
