"""The pictures of the page, drawn by hand as SVG, for no plotting library is needed for this."""

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
    return _sheet("".join(parts), top)


def memory(soak: Mapping[str, Any]) -> str:
    """What every process gained and lost in the course of a soak, one line each, one scale."""
    courses: Mapping[str, Sequence[float]] = soak["memory"]
    # From a tenth on: what comes before is starting.
    gained = {
        name: [v - course[len(course) // 10] for v in course] for name, course in courses.items()
    }
    late = {name: values[len(values) // 10 :] for name, values in gained.items()}
    least, most = min(map(min, late.values())), max(map(max, late.values()))
    span, parts, tall = max(most - least, 1.0), [], 52
    for number, (name, values) in enumerate(late.items()):
        top = 40 + number * (tall + 8)
        step = (WIDTH - LEFT - 90) / max(1, len(values) - 1)
        line = " ".join(
            f"{LEFT + at * step:.1f},{top + tall * (most - value) / span:.1f}"
            for at, value in enumerate(values)
        )
        y = top + tall / 2 + 5
        parts += [
            f'<text x="{LEFT - 8}" y="{y}" fill="{INK}" text-anchor="end">{escape(name)}</text>\n',
            f'<polyline points="{line}" fill="none" stroke="{OURS}" stroke-width="1.5"/>\n',
            f'<text x="{WIDTH - 80}" y="{y}" fill="{FAINT}">{values[-1]:+.1f} MiB</text>\n',
        ]
    rounds = soak["rounds"]
    title = f"MiB gained from round {rounds // 10} to {rounds}; a row is {span:.1f} MiB high"
    head = f'<text x="10" y="22" fill="{INK}" font-weight="bold">{title}</text>\n'
    return _sheet(head + "".join(parts), 48 + len(late) * (tall + 8))


def _sheet(inside: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + inside + "</svg>\n"
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
