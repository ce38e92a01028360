"""Line charts as accessible inline SVG. Pure."""

import math
from collections.abc import Mapping, Sequence

from stillroom.common.markup import Child, Html, tag
from stillroom.common.pages.marks import site_class, site_mark
from stillroom.common.pages.reading import Curve

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 34, 112, 14, 34
LABEL_GAP = 13
"""All in units of the drawing, which is shown at about one pixel each."""


def chart(
    identity: str,
    title: str,
    curves: Mapping[str, Curve],
    *,
    order: Sequence[str],
    span: tuple[int, int],
    top: float | None = None,
    unit: str = "",
    is_sparse: bool = False,
) -> Html:
    """One panel: rounds to the right, values upwards from 0, a line and an end label per site.

    Args:
        identity: Unique on the page; ties title and description to the picture.
        title: Of the figure.
        curves: By site, none empty.
        order: Every site; the place in it gives colour and mark.
        span: First and last round of the stage, so that its panels line up.
        top: End of the value axis; from the data when None.
        unit: Of the values, beside the title.
        is_sparse: True when only some rounds have a value by design.
    """
    frame = _Frame(span, top or max(value for curve in curves.values() for _, value in curve))
    svg = tag(
        "svg",
        tag("title", title, id=f"{identity}-t"),
        tag("desc", _words(curves), id=f"{identity}-d"),
        frame.axes(),
        [
            _line(frame, order.index(site), curve, is_sparse=is_sparse)
            for site, curve in curves.items()
        ],
        _end_labels(frame, curves, order),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
        class_="chart",
    )
    caption = tag("figcaption", tag("b", title), tag("span", unit, class_="unit"))
    return tag("figure", caption, svg, class_="panel")


def _words(curves: Mapping[str, Curve]) -> str:
    """Both ends of every line."""
    return "; ".join(
        f"{site}: {curve[0][1]:.3g} in round {curve[0][0]}, {curve[-1][1]:.3g} in round {curve[-1][0]}"
        for site, curve in curves.items()
    )


def nice_step(highest: float, parts: int = 5) -> float:
    """The smallest of 1, 2 or 5 times a power of ten of which ``parts`` reach ``highest``."""
    wanted = max(highest, 1e-9) / parts
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(m * power for m in (1, 2, 5, 10, 20) if m * power >= wanted * (1 - 1e-9))


def ticks(first: int, last: int) -> list[int]:
    """Rounds to number on the axis: the first, then round numbers not too close to it."""
    step = max(1, round(nice_step(last - first, 6)))
    later = [n for n in range(0, last + 1, step) if n > first and n - first >= step / 2]
    return [first, *later]


class _Frame:
    """Where rounds and values lie in the drawing."""

    def __init__(self, span: tuple[int, int], highest: float) -> None:
        self.first, self.end = span
        self.last = max(self.end, self.first + 1)
        self.step = nice_step(highest)
        self.ceiling = self.step * math.ceil(highest / self.step - 1e-9) or self.step

    def x(self, number: float) -> float:
        share = (number - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = min(max(value / self.ceiling, 0.0), 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[Child]:
        """Hairlines and numbers."""
        parts: list[Child] = []
        for k in range(round(self.ceiling / self.step) + 1):
            y = self.y(k * self.step)
            parts += [
                tag("path", d=f"M{LEFT} {y:.1f} H{WIDTH - RIGHT}", class_="grid" if k else "axis"),
                tag(
                    "text",
                    f"{k * self.step:.3g}",
                    x=LEFT - 8,
                    y=f"{y + 3.5:.1f}",
                    text_anchor="end",
                ),
            ]
        for number in ticks(self.first, self.end):
            x = f"{self.x(number):.1f}"
            parts.append(tag("text", number, x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            tag("text", "round", x=middle, y=HEIGHT - 3, text_anchor="middle", class_="name")
        )
        return parts


def _line(frame: _Frame, index: int, curve: Curve, *, is_sparse: bool) -> list[Child]:
    path, previous = "", None
    for number, value in curve:
        # A round without the site's work is a hole in its line: a stroke across it would be made up.
        is_next = previous is not None and (is_sparse or number == previous + 1)
        path += f"{'L' if is_next else 'M'}{frame.x(number):.1f} {frame.y(value):.1f} "
        previous = number
    # Beyond eight sites colours repeat; then the line itself is broken to tell them apart.
    dashes = None if index < 8 else "5 3"
    line = tag("path", d=path, class_=f"line {site_class(index)}", stroke_dasharray=dashes)
    # Marks on every round of a long stage would hide the line.
    marked = curve if len(curve) <= 14 else [curve[0], curve[-1]]
    return [line, *(site_mark(index, frame.x(n), frame.y(v), 2.8) for n, v in marked)]


def _end_labels(frame: _Frame, curves: Mapping[str, Curve], order: Sequence[str]) -> list[Child]:
    """Name and last value beside each line, moved apart where they would overlap."""
    wanted = sorted((frame.y(curve[-1][1]), site) for site, curve in curves.items())
    places: list[float] = []
    for y, _ in wanted:
        places.append(max(y, places[-1] + LABEL_GAP) if places else y)
    overflow = max(0.0, places[-1] - (HEIGHT - BOTTOM)) if places else 0.0
    return [
        tag(
            "text",
            f"{site if len(site) <= 13 else site[:12] + '…'} {curves[site][-1][1]:.2f}",
            x=WIDTH - RIGHT + 8,
            y=f"{place - overflow + 3.5:.1f}",
            class_=f"end {site_class(order.index(site))}",
        )
        for place, (_, site) in zip(places, wanted, strict=True)
    ]
