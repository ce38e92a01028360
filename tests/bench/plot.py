"""The picture of the page: bars drawn by hand as SVG, for no plotting library is needed for this."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, ROW, LEFT, GAP = 760, 24, 190, 46
OURS, THEIRS, INK, FAINT = "#1f6f8b", "#b9b2a3", "#222222", "#8a8a8a"
MIB = 2**20


def picture(found: Mapping[str, Any]) -> str:
    """Three groups of bars: seconds, memory of the server, megabytes of one site."""
    rows = [row for row in found["systems"] if "missing" not in row]
    names = [row["system"] for row in rows]
    model = found["model_bytes"] / MIB
    groups = [
        ("Seconds of a round after the first (median)", [row["wall_s"] for row in rows], "{:.1f}"),
        (
            "Memory of all server processes, in models",
            [row["server_peak_mib"] / model for row in rows],
            "{:.1f}x",
        ),
        (
            "Megabytes of one site and round, both ways",
            [(row["up"] + row["down"]) / 1e6 for row in rows],
            "{:.0f}",
        ),
    ]
    parts, top = [], 10
    for title, values, form in groups:
        parts.append(_group(title, names, values, form, top))
        top += GAP + ROW * len(names)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}" role="img" font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "".join(parts) + "</svg>\n"
    )


def _group(title: str, names: Sequence[str], values: Sequence[float], form: str, top: int) -> str:
    room, most = WIDTH - LEFT - 80, max(values, default=1) or 1
    lines = [
        f'<text x="10" y="{top + 16}" fill="{INK}" font-weight="bold">{escape(title)}</text>\n'
    ]
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = top + 26 + number * ROW
        width, said = max(1.0, room * value / most), form.format(value)
        colour = OURS if name.startswith("stillroom") else THEIRS
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 14}" fill="{INK}" text-anchor="end">{escape(name)}</text>\n',
            f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 7}" fill="{colour}"/>\n',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 14}" fill="{FAINT}">{said}</text>\n',
        ]
    return "".join(lines)
