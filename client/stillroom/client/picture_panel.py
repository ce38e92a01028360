"""One cut of a scan with its overlays: the panels of ``picture.three_planes``. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Vector = tuple[float, float, float]

PALETTE: tuple[Colour, ...] = (
    (255, 99, 110), (77, 171, 247), (255, 212, 59), (81, 217, 140), (190, 140, 255), (255, 159, 67),
    (45, 212, 220), (247, 131, 190), (176, 224, 80), (120, 140, 255), (235, 190, 150), (150, 200, 200),
)  # fmt: skip
"""Distinct on grey and from one another, also for most colour-blind readers."""

BACKGROUND: Colour = (13, 16, 21)
TEXT: Colour = (220, 226, 233)
MUTED: Colour = (128, 139, 152)

FILL = 0.30
"""Opacity of a class; its outline is drawn at 0.95."""
SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Plane:
    """One of the three cuts.

    Attributes:
        name: As the reader knows it.
        normal: Array axis of (D, H, W) that is cut.
        across: Point axis (x, y, z = 0, 1, 2) that runs to the right.
        down: Point axis that runs down, or up where ``is_flipped``.
        is_flipped: Rows are drawn bottom up, so that the head is at the top.
        letters: Left, right, top, bottom.
    """

    name: str
    normal: int
    across: int
    down: int
    is_flipped: bool
    letters: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 0, 0, 1, is_flipped=False, letters=("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, is_flipped=True, letters=("R", "L", "S", "I")),
    Plane("sagittal", 2, 1, 2, is_flipped=True, letters=("A", "P", "S", "I")),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is shown; see ``picture.three_planes``. ``points`` are in voxels (i, j, k)."""

    image: NDArray[np.integer] | NDArray[np.floating]
    spacing_mm: Vector
    mask: NDArray[np.integer] | None
    names: tuple[str, ...]
    points: Mapping[str, Vector]
    window: tuple[float, float]
    centre: tuple[int, int, int]

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        depth, height, width = self.image.shape
        return width, height, depth

    def colour_of_point(self, name: str) -> Colour:
        """Points take the colours after those of the classes."""
        return PALETTE[(len(self.names) + list(self.points).index(name)) % len(PALETTE)]


def draw_panel(scene: Scene, plane: Plane, scale: float) -> Image.Image:
    """One cut at ``scale`` pixels per mm, with its overlays and letters."""
    across = scene.size[plane.across] * scene.spacing_mm[plane.across]
    down = scene.size[plane.down] * scene.spacing_mm[plane.down]
    size = max(1, round(across * scale)), max(1, round(down * scale))
    large = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    low, high = scene.window
    grey = np.clip((_cut(scene.image, plane, scene.centre) - low) / (high - low), 0, 1)
    picture = Image.fromarray((grey * 255).astype(np.uint8)).resize(large, Image.Resampling.BICUBIC)
    picture = picture.convert("RGB")
    if scene.mask is not None:
        finest = min(scene.spacing_mm[plane.across], scene.spacing_mm[plane.down])
        voxel_px = scale * SUPERSAMPLING * finest
        cut = _cut(scene.mask, plane, scene.centre)
        for index in np.unique(cut[cut > 0]):
            colour = PALETTE[(int(index) - 1) % len(PALETTE)]
            _overlay(picture, cut == index, colour, voxel_px)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture, "RGBA")
    _draw_cuts(draw, scene, plane, size)
    for name, voxel in scene.points.items():
        _draw_point(draw, scene, plane, size, (name, voxel))
    _draw_letters(draw, plane, size)
    if plane.name == "axial":
        _draw_scale(draw, size, scale)
    return picture


def _cut(array: NDArray[Any], plane: Plane, centre: tuple[int, int, int]) -> NDArray[Any]:
    """Rows and columns as drawn."""
    cut = np.take(array, centre[2 - plane.normal], axis=plane.normal)
    return np.ascontiguousarray(cut[::-1] if plane.is_flipped else cut)


def _overlay(
    picture: Image.Image, region: NDArray[np.bool_], colour: Colour, voxel_px: float
) -> None:
    """Tint a region and draw its outline, both smoothed by less than half a voxel.

    A single voxel survives: interpolated and blurred by 0.3 voxels, its centre is still 0.58.
    """
    sharp = Image.fromarray(region.astype(np.uint8) * 255)
    sharp = sharp.resize(picture.size, Image.Resampling.BILINEAR)
    soft = sharp.filter(ImageFilter.GaussianBlur(0.3 * voxel_px))
    inside = soft.point(lambda value: 255 if value >= 128 else 0)
    edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(5)))
    solid = Image.new("RGB", picture.size, colour)
    picture.paste(solid, mask=inside.point(lambda value: round(value * FILL)))
    picture.paste(solid, mask=edge.point(lambda value: round(value * 0.95)))


def _place(scene: Scene, plane: Plane, size: tuple[int, int], voxel: Vector) -> tuple[float, float]:
    """Pixel of a voxel position in a panel."""
    u = (voxel[plane.across] + 0.5) / scene.size[plane.across]
    v = (voxel[plane.down] + 0.5) / scene.size[plane.down]
    return u * size[0], (1 - v if plane.is_flipped else v) * size[1]


def _draw_point(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    plane: Plane,
    size: tuple[int, int],
    point: tuple[str, Vector],
) -> None:
    name, voxel = point
    axis = 2 - plane.normal
    away_mm = abs(voxel[axis] - scene.centre[axis]) * scene.spacing_mm[axis]
    opacity = round(255 * max(0.45, 1 - away_mm / 30))
    x, y = _place(scene, plane, size, voxel)
    colour = scene.colour_of_point(name)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), outline=(0, 0, 0, opacity), width=4)
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=(*colour, opacity), width=2)
    font = font_of(12)
    # Towards the middle of the panel, so that no name is cut off at its edge.
    anchor, shift = ("lm", 9) if x < size[0] / 2 else ("rm", -9)
    draw.text(
        (x + shift, y), initials(name), (*colour, opacity), font, anchor,
        stroke_width=2, stroke_fill=(0, 0, 0, opacity),
    )  # fmt: skip


def initials(name: str) -> str:
    """A short form of a point's name: ``membranous_septum_1`` becomes ``MS1``."""
    if len(name) <= 4:
        return name
    parts = re.findall(r"[0-9]+|[A-Z]?[a-z]+|[A-Z]+", name)
    short = "".join(part if part.isdigit() else part[0].upper() for part in parts)
    return short[:4] if len(short) > 1 else name[:3]


def _draw_cuts(
    draw: ImageDraw.ImageDraw, scene: Scene, plane: Plane, size: tuple[int, int]
) -> None:
    """Small ticks at the edges, where the other two planes cut this one."""
    i, j, k = scene.centre
    x, y = _place(scene, plane, size, (i, j, k))
    faint = (255, 255, 255, 130)
    width, height = size
    for line in (
        ((x, 0), (x, 7)), ((x, height - 8), (x, height)),
        ((0, y), (7, y)), ((width - 8, y), (width, y)),
    ):  # fmt: skip
        draw.line(line, fill=faint, width=1)


def _draw_letters(draw: ImageDraw.ImageDraw, plane: Plane, size: tuple[int, int]) -> None:
    width, height = size
    left, right, top, bottom = plane.letters
    for letter, position, anchor in (
        (left, (10, height / 2), "lm"), (right, (width - 10, height / 2), "rm"),
        (top, (width / 2, 9), "mt"), (bottom, (width / 2, height - 9), "mb"),
    ):  # fmt: skip
        draw.text(
            position, letter, TEXT, font_of(15), anchor, stroke_width=2, stroke_fill=(0, 0, 0)
        )


def _draw_scale(draw: ImageDraw.ImageDraw, size: tuple[int, int], scale: float) -> None:
    """A bar of a round length in the lower right corner."""
    fitting = [mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm * scale <= size[0] / 3]
    if not fitting:
        return
    x, y, mm = size[0] - 12, size[1] - 12, fitting[-1]
    draw.line(((x - mm * scale, y), (x, y)), fill=(0, 0, 0, 255), width=5)
    draw.line(((x - mm * scale, y), (x, y)), fill=TEXT, width=2)
    draw.text(
        (x, y - 6), f"{mm} mm", TEXT, font_of(12), "rb", stroke_width=2, stroke_fill=(0, 0, 0)
    )


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same picture on every machine."""
    return ImageFont.load_default(size)
