"""A contact sheet: three planes of a case, in grey and with its labels over it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stillroom.deploy.phantom.painting import Case

_COLOURS = np.array(
    [(0, 0, 0), (220, 60, 60), (70, 110, 230), (250, 150, 70), (90, 190, 230), (150, 200, 90),
     (250, 220, 80), (190, 110, 220), (255, 255, 255)], np.float32,
)  # fmt: skip
"""Background, LV, RV, LA, RA, MYO, AO, PA, calcification."""
_POINT = (0, 255, 160)
WINDOW = (-200.0, 600.0)
"""HU shown from black to white."""


def draw_case(case: Case, *, tile: int = 256) -> Image.Image:
    """Axial, coronal and sagittal plane through the heart's middle; labels below, points as rings.

    Args:
        case: Any case; when no heart is in view the volume's middle is shown.
        tile: Side of one picture in pixels.
    """
    found = np.argwhere(case.chambers > 0)
    middle = found.mean(0).round().astype(int) if len(found) else np.array(case.hu.shape) // 2
    labels = np.where(case.vessels > 0, case.vessels + 5, case.chambers)
    labels = np.where(case.calcification > 0, 8, labels)
    low, high = WINDOW
    grey = np.clip((case.hu - low) / (high - low), 0, 1).astype(np.float32) * 255
    sheet = Image.new("RGB", (3 * tile, 2 * tile))
    for column, axis in enumerate((0, 1, 2)):
        plane, marks = (np.take(v, middle[axis], axis) for v in (grey, labels))
        if axis > 0:
            plane, marks = plane[::-1], marks[::-1]  # head up
        rgb = np.repeat(plane[..., None], 3, 2)
        mixed = np.where(marks[..., None] > 0, 0.6 * rgb + 0.4 * _COLOURS[marks], rgb)
        for row, picture in enumerate((rgb, mixed)):
            sheet.paste(_scaled(picture, case, axis, tile), (column * tile, row * tile))
        _rings(sheet, case, axis, (int(middle[axis]), column, tile))
    return sheet


def _scaled(picture: NDArray[np.float32], case: Case, axis: int, tile: int) -> Image.Image:
    """Square pixels, centred on a black tile."""
    step = np.delete(np.asarray(case.spacing_mm)[::-1], axis)
    size = np.asarray(picture.shape[:2]) * step
    height, width = (size * (tile / _extent(case))).round().astype(int)
    image = Image.fromarray(picture.astype(np.uint8)).resize(
        (int(width), int(height)), Image.Resampling.BICUBIC
    )
    canvas = Image.new("RGB", (tile, tile))
    canvas.paste(image, ((tile - int(width)) // 2, (tile - int(height)) // 2))
    return canvas


def _extent(case: Case) -> float:
    return float((np.asarray(case.hu.shape) * np.asarray(case.spacing_mm)[::-1]).max())


def _rings(sheet: Image.Image, case: Case, axis: int, where: tuple[int, int, int]) -> None:
    """Points within 6 mm of the plane shown."""
    index, column, tile = where
    pen = ImageDraw.Draw(sheet)
    spacing = np.asarray(case.spacing_mm)
    for mm in case.points.values():
        ijk = (np.asarray(mm) - np.asarray(case.origin_mm)) @ case.direction / spacing
        zyx = ijk[::-1]
        if abs(zyx[axis] - index) * spacing[::-1][axis] > 6:
            continue
        shape = np.asarray(case.hu.shape)
        from_middle = (zyx - (shape - 1) / 2) * spacing[::-1] * (tile / _extent(case))
        down, right = np.delete(from_middle, axis)
        down = -down if axis > 0 else down
        x, y = column * tile + tile / 2 + right, tile * 1.5 + down
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), outline=_POINT)
