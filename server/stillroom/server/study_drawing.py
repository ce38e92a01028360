"""A study's stages as a drawing: text for the terminal, SVG for a page. Pure.

Solid lines are weights of earlier stages that a stage takes; dotted lines are what a stage writes
into the working copies on site (a heart's box, pseudo-labels), which later stages see.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from stillroom.common.stage import Stage
from stillroom.common.study import Study
from stillroom.server.rounds.schedule import waves

BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 190, 46, 70, 18, 16
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#567"/></marker></defs>'
)


@dataclass(frozen=True, slots=True)
class Edge:
    """One stage feeds another.

    Attributes:
        source: The earlier stage.
        target: The later one.
        role: ``start``, ``backbone`` or ``teacher``; ``on site`` for what never travels.
    """

    source: str
    target: str
    role: str


def edges(study: Study) -> list[Edge]:
    """Every connection, in the order of the stages."""
    found: list[Edge] = []
    wrote: list[str] = []
    for stage in study.stage:
        found += [Edge(source, stage.name, role) for source, role in _inputs(stage)]
        taken = {edge.source for edge in found if edge.target == stage.name}
        found += [Edge(source, stage.name, "on site") for source in wrote if source not in taken]
        # A stage that writes passes on what those before it wrote: one line is enough.
        if not stage.exchanges:
            wrote = [stage.name]
    return found


def _inputs(stage: Stage) -> Iterator[tuple[str, str]]:
    if stage.start is not None:
        yield stage.start, "start"
    if stage.backbone is not None:
        yield stage.backbone, "backbone"
    for teacher in stage.teachers:
        yield teacher, "teacher"


def as_text(study: Study) -> str:
    """One line a stage, those that run side by side under one number."""
    lines, known = list[str](), edges(study)
    width = max(len(stage.name) for stage in study.stage)
    for number, wave in enumerate(waves(study), 1):
        for position, stage in enumerate(wave):
            mark = f"{number:>3}." if position == 0 else "    "
            sources: dict[str, list[str]] = {}
            for edge in known:
                if edge.target == stage.name:
                    sources.setdefault(edge.role, []).append(edge.source)
            taken = "; ".join(f"{role}: {', '.join(names)}" for role, names in sources.items())
            lines.append(f"{mark} {stage.name:<{width}}  {'<- ' + taken if taken else ''}".rstrip())
    return "\n".join(lines)


def as_svg(study: Study, sizes: Mapping[str, str]) -> str:
    """The same as a picture: a column for every step, a box for every stage.

    Args:
        study: The study.
        sizes: Stage -> what it exchanges a round, in words; put into its box.
    """
    columns = waves(study)
    tallest = max(len(wave) for wave in columns)
    width = MARGIN * 2 + len(columns) * BOX_W + (len(columns) - 1) * GAP_X
    height = MARGIN * 2 + tallest * (BOX_H + GAP_Y) - GAP_Y + _detour(study)
    place: dict[str, tuple[float, float]] = {}
    for column, wave in enumerate(columns):
        top = MARGIN + (tallest - len(wave)) * (BOX_H + GAP_Y) / 2
        for row, stage in enumerate(wave):
            place[stage.name] = (MARGIN + column * (BOX_W + GAP_X), top + row * (BOX_H + GAP_Y))
    depth = {stage.name: column for column, wave in enumerate(columns) for stage in wave}
    floor = MARGIN + tallest * (BOX_H + GAP_Y)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        ),
        f"<title>Stages of study {escape(study.study.name)}</title>",
        TIP,
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for edge in edges(study):
        far = depth[edge.target] - depth[edge.source] > 1
        parts.append(_line(edge, place, floor if far else None))
    parts += [_box(stage, place[stage.name], sizes.get(stage.name, "")) for stage in study.stage]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _detour(study: Study) -> int:
    """Room below the boxes for lines that pass a column."""
    depth = {s.name: column for column, wave in enumerate(waves(study)) for s in wave}
    return 40 if any(depth[e.target] - depth[e.source] > 1 for e in edges(study)) else 0


def _line(edge: Edge, place: Mapping[str, tuple[float, float]], floor: float | None) -> str:
    (x0, y0), (x1, y1) = place[edge.source], place[edge.target]
    x0, y0, y1 = x0 + BOX_W, y0 + BOX_H / 2, y1 + BOX_H / 2
    if floor is None:
        middle = (x0 + x1) / 2
        path = f"M{x0} {y0} C{middle} {y0} {middle} {y1} {x1} {y1}"
    else:
        # Below the boxes that stand between the two.
        path = (
            f"M{x0} {y0} C{x0 + GAP_X / 2} {y0} {x0 + 6} {floor + 20} {x0 + GAP_X} {floor + 20} "
            f"L{x1 - GAP_X} {floor + 20} C{x1 - 6} {floor + 20} {x1 - GAP_X / 2} {y1} {x1} {y1}"
        )
    dots = ' stroke-dasharray="2 4"' if edge.role == "on site" else ""
    title = f"<title>{escape(f'{edge.source} to {edge.target}: {edge.role}')}</title>"
    return (
        f'<path d="{path}" fill="none" stroke="#567" stroke-width="1.4" '
        f'marker-end="url(#tip)"{dots}>{title}</path>'
    )


def _box(stage: Stage, at: tuple[float, float], size: str) -> str:
    x, y = at
    fill = "#e8f0ea" if stage.exchanges else "#f4efe2"
    rounds = f"{stage.rounds} round{'s' * (stage.rounds != 1)}"
    second = ", ".join(part for part in (stage.recipe, rounds, size) if part)
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="6" fill="{fill}" '
        f'stroke="#9ab"/><text x="{x + 10}" y="{y + 19}" font-weight="bold">'
        f"{escape(stage.name[:26])}</text>"
        f'<text x="{x + 10}" y="{y + 36}" fill="#456" font-size="10.5">{escape(second[:38])}</text>'
    )
