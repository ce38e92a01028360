"""A three-plane picture of a scan with what was labelled or predicted on it. Pure: arrays in, image out.

Radiological convention: the reader stands at the patient's feet, so the patient's left is on the
right of the picture; anterior is up in the axial plane and left in the sagittal one. All panels
share one scale, so a sphere is a circle of the same size in each.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stillroom.client.picture_panel import (
    BACKGROUND,
    MUTED,
    PALETTE,
    PLANES,
    TEXT,
    Colour,
    Scene,
    Vector,
    draw_panel,
    font_of,
    initials,
)

GAP, MARGIN, HEADING, LINE = 14, 22, 26, 24
"""Between panels, around the picture, above a panel, per legend row: pixels."""


def three_planes(  # noqa: PLR0913 - each is one thing a caller may or may not have to show
    image_hu: NDArray[np.integer] | NDArray[np.floating],
    spacing_mm: Vector,
    *,
    mask: NDArray[np.integer] | None = None,
    names: Sequence[str] = (),
    points: Mapping[str, Vector | None] | None = None,
    origin_mm: Vector = (0.0, 0.0, 0.0),
    window: tuple[float, float] = (-150.0, 650.0),
    size_px: int = 1320,
    title: str = "",
) -> Image.Image:
    """Axial, coronal and sagittal cut through the middle of what is labelled.

    Args:
        image_hu: ``(D, H, W)`` Hounsfield units on an axis-aligned LPS grid.
        spacing_mm: Voxel size along (x, y, z).
        mask: ``(D, H, W)`` class indices, 0 = background; on the same grid.
        names: Names of classes 1..n, for the legend.
        points: Name -> (x, y, z) in mm; None where there is none. A ring fades with its distance
            from the cut.
        origin_mm: Centre of voxel (0, 0, 0): makes ``points`` comparable.
        window: HU shown as black and as white.
        size_px: Widest the picture may be.
        title: One line above the panels; never a patient's name.

    Raises:
        ValueError: ``image_hu`` is not a volume or ``mask`` has another shape.
    """
    if image_hu.ndim != 3 or 0 in image_hu.shape:
        raise ValueError(f"image_hu has shape {image_hu.shape}, expected (D, H, W)")
    if mask is not None and mask.shape != image_hu.shape:
        raise ValueError(f"mask has shape {mask.shape}, expected {image_hu.shape}")
    placed = {
        name: tuple((m - o) / s for m, o, s in zip(mm, origin_mm, spacing_mm, strict=True))
        for name, mm in (points or {}).items()
        if mm is not None
    }
    voxels = {name: (i, j, k) for name, (i, j, k) in placed.items()}
    centre = _centre(image_hu.shape, mask, list(voxels.values()))
    scene = Scene(image_hu, spacing_mm, mask, tuple(names), voxels, window, centre)
    return _compose(scene, size_px, title)


def _centre(
    shape: tuple[int, ...], mask: NDArray[np.integer] | None, points: Sequence[Vector]
) -> tuple[int, int, int]:
    """Voxel (i, j, k) through which the cuts run."""
    middle = [n / 2 for n in shape[::-1]]
    if mask is not None and mask.any():
        held = mask != 0
        sums = [held.sum(axis=axes) for axes in ((0, 1), (0, 2), (1, 2))]
        middle = [float(np.average(np.arange(len(s)), weights=s)) for s in sums]
    elif points:
        middle = [float(v) for v in np.mean(points, axis=0)]
    i, j, k = (int(np.clip(round(m), 0, n - 1)) for m, n in zip(middle, shape[::-1], strict=True))
    return i, j, k


def _compose(scene: Scene, size_px: int, title: str) -> Image.Image:
    extent = [n * s for n, s in zip(scene.size, scene.spacing_mm, strict=True)]
    wide = sum(extent[p.across] for p in PLANES)
    tall = max(extent[p.down] for p in PLANES)
    room = size_px - 2 * MARGIN - GAP * (len(PLANES) - 1)
    # A whole-body scan is limited by its height rather than by the width of the picture.
    scale = min(room / wide, 0.75 * size_px / tall)
    panels = [draw_panel(scene, plane, scale) for plane in PLANES]
    width = max(sum(p.width for p in panels) + GAP * (len(panels) - 1), 480) + 2 * MARGIN
    rows = _legend_rows(scene, width - 2 * MARGIN)
    top = MARGIN + (LINE + 8 if title else 0)
    row_height = max(p.height for p in panels)
    height = top + HEADING + row_height + (16 + LINE * len(rows) if rows else 0) + MARGIN
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN - 6), title, TEXT, font_of(20))
    x = MARGIN
    for plane, panel in zip(PLANES, panels, strict=True):
        draw.text((x, top), plane.name, MUTED, font_of(15))
        canvas.paste(panel, (x, top + HEADING + (row_height - panel.height) // 2))
        x += panel.width + GAP
    for number, row in enumerate(rows):
        _draw_legend(draw, row, MARGIN, top + HEADING + row_height + 16 + LINE * number)
    return canvas


Entry = tuple[Colour, str, bool]
"""Colour, text, whether it is a point."""


def _legend_rows(scene: Scene, width: int) -> list[list[Entry]]:
    """Legend entries in rows that fit ``width``; classes first, then points."""
    entries: list[Entry] = [
        (PALETTE[index % len(PALETTE)], name.replace("_", " "), False)
        for index, name in enumerate(scene.names)
    ]
    for name in scene.points:
        short = initials(name)
        text = name if short == name else f"{short}  {name.replace('_', ' ')}"
        entries.append((scene.colour_of_point(name), text, True))
    rows: list[list[Entry]] = []
    used = width + 1.0
    for entry in entries:
        needs = _entry_width(entry)
        if used + needs > width:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += needs
    return rows


def _entry_width(entry: Entry) -> float:
    return 22 + font_of(15).getlength(entry[1]) + 22


def _draw_legend(draw: ImageDraw.ImageDraw, row: Sequence[Entry], x: float, y: float) -> None:
    for entry in row:
        colour, text, is_point = entry
        if is_point:
            draw.ellipse((x + 1, y + 4, x + 12, y + 15), outline=colour, width=2)
        else:
            draw.rounded_rectangle((x, y + 3, x + 13, y + 16), radius=3, fill=colour)
        draw.text((x + 22, y + 10), text, TEXT, font_of(15), "lm")
        x += _entry_width(entry)
