"""Marks that tell sites and outcomes apart by shape first and colour second. Pure.

Colours are CSS classes (``s0`` to ``s7``; see ``style``), a palette after Okabe and Ito (2008),
darkened or lightened for the page it stands on.
"""

import math

from stillroom.common.markup import Html, tag

COLOURS = 8


def site_class(index: int) -> str:
    """CSS class that colours the mark of site number ``index``."""
    return f"s{index % COLOURS}"


def site_mark(index: int, x: float, y: float, radius: float = 3.4) -> Html:
    """The SVG mark of site number ``index`` centred at (x, y)."""
    shapes = (
        _polygon(x, y, radius, 0),
        _polygon(x, y, radius * 1.2, 4, 45),
        _polygon(x, y, radius * 1.35, 3, -90),
        _polygon(x, y, radius * 1.3, 4),
        _polygon(x, y, radius * 1.35, 3, 90),
        _polygon(x, y, radius * 1.15, 6),
        _polygon(x, y, radius * 1.2, 5, -90),
    )
    return tag("path", d=shapes[index % len(shapes)], class_=f"mark {site_class(index)}")


def site_key(index: int, name: str) -> Html:
    """Mark and name, for legends and table heads."""
    picture = tag(
        "svg", site_mark(index, 6, 6, 4), viewBox="0 0 12 12", class_="key", aria_hidden="true"
    )
    return tag("span", picture, name, class_="site")


def status_mark(status: str, title: str) -> Html:
    """One cell of the participation matrix; ``title`` is its text for readers and on hover."""
    drawn = {
        "admitted": tag("circle", cx=8, cy=8, r=5, class_="ok"),
        "refused": tag("path", d="M3.5 3.5 L12.5 12.5 M12.5 3.5 L3.5 12.5", class_="bad"),
        "failed": tag("path", d="M8 2.5 L14 13 L2 13 Z", class_="bad solid"),
        "late": tag("path", d="M8 2.5 A5.5 5.5 0 1 1 7.99 2.5 M8 4.5 V8.5 L10.5 10", class_="bad"),
    }.get(status, tag("circle", cx=8, cy=8, r=1.2, class_="none"))
    return tag("svg", tag("title", title), drawn, viewBox="0 0 16 16", class_="cell", role="img")


def _polygon(x: float, y: float, radius: float, corners: int, turn: float = 0.0) -> str:
    """Path of a regular polygon, or of a circle for no corners."""
    if corners == 0:
        r = f"{radius:.2f}"
        return (
            f"M{x - radius:.2f} {y:.2f} a{r} {r} 0 1 0 {2 * radius:.2f} 0 "
            f"a{r} {r} 0 1 0 {-2 * radius:.2f} 0 Z"
        )
    angles = [math.radians(turn + 360 * k / corners) for k in range(corners)]
    points = [f"{x + radius * math.cos(a):.2f} {y + radius * math.sin(a):.2f}" for a in angles]
    return "M" + " L".join(points) + " Z"
