"""Pictures show each side where a radiologist expects it, in true proportions, with every label."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stillroom.client.picture import MARGIN, PALETTE, initials, three_planes
from stillroom.client.picture_panel import PLANES, Plane, Scene, draw_panel

SHAPE = (20, 30, 40)
SPACING = (1.0, 2.0, 3.0)


def panel(plane: Plane, image: NDArray[np.int16], scale: float = 4.0) -> NDArray[np.uint8]:
    scene = Scene(image, SPACING, None, (), {}, (0.0, 100.0), (20, 15, 10))
    return np.asarray(draw_panel(scene, plane, scale))


def quadrant_means(picture: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Left, right, top, bottom."""
    height, width = picture.shape[:2]
    return (
        float(picture[:, : width // 2].mean()), float(picture[:, width // 2 :].mean()),
        float(picture[: height // 2].mean()), float(picture[height // 2 :].mean()),
    )  # fmt: skip


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_sides_are_where_the_letters_say(plane: Plane) -> None:
    """Bright left, posterior and superior halves appear at L, P and S."""
    bright_at = {"x": "L", "y": "P", "z": "S"}
    places = dict(zip(plane.letters, range(4), strict=True))

    for axis, letter in bright_at.items():
        if letter not in places:
            continue
        image = np.zeros(SHAPE, np.int16)
        half = {"x": np.s_[:, :, 20:], "y": np.s_[:, 15:], "z": np.s_[10:]}[axis]
        image[half] = 100
        means = quadrant_means(panel(plane, image))
        opposite = places[letter] ^ 1
        assert means[places[letter]] > 200
        assert means[opposite] < 40


@pytest.mark.parametrize(
    ("plane", "size"), list(zip(PLANES, [(160, 240), (160, 240), (240, 240)], strict=True))
)
def test_panels_are_in_proportion(plane: Plane, size: tuple[int, int]) -> None:
    """A panel is as wide and as high as its millimetres say."""
    picture = panel(plane, np.zeros(SHAPE, np.int16))

    assert picture.shape[1::-1] == size


def test_window_ends_are_black_and_white() -> None:
    """Values at the ends of the window and beyond are black and white; the middle is grey."""
    for value, grey in ((-5000, 0), (0, 0), (50, 127), (100, 255), (9000, 255)):
        picture = panel(PLANES[0], np.full(SHAPE, value, np.int16))
        assert abs(int(np.median(picture)) - grey) <= 1


def test_every_class_is_tinted_even_a_single_voxel() -> None:
    """A class of one voxel in the cut leaves its colour in the picture."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[10, 15, 10] = 1
    mask[10, 5:25, 25:35] = 2
    scene = Scene(np.zeros(SHAPE, np.int16), SPACING, mask, ("a", "b"), {}, (0, 100), (20, 15, 10))

    picture = np.asarray(draw_panel(scene, PLANES[0], 8.0)).astype(int)

    for colour in PALETTE[:2]:
        distance = np.abs(picture - np.asarray(colour)).sum(axis=-1)
        assert distance.min() < 120, colour


def test_point_is_drawn_where_it_lies() -> None:
    """A point in mm, seen from an origin, has its ring around the right pixel of each panel."""
    image = np.zeros(SHAPE, np.int16)
    origin = (100.0, -50.0, 7.0)
    mm = (100.0 + 12, -50.0 + 2 * 9, 7.0 + 3 * 15)

    with_point = three_planes(image, SPACING, points={"P": mm, "Q": None}, origin_mm=origin)
    scene = Scene(image, SPACING, None, (), {"P": (12.0, 9.0, 15.0)}, (0, 100), (12, 9, 15))
    for plane, (x, y) in zip(PLANES, [(12.5, 19), (12.5, 13.5), (19, 13.5)], strict=True):
        drawn = np.asarray(draw_panel(scene, plane, 6.0)).astype(int)
        ring = np.abs(drawn - np.asarray(PALETTE[0])).sum(axis=-1) < 60
        rows, columns = np.nonzero(ring)
        near = np.hypot(columns - x * 6, rows - y * 6)
        assert near.min() < 6
    assert with_point.size[0] > 0


def test_picture_is_no_wider_than_asked_and_repeatable() -> None:
    """Also for a scan much taller than wide; the same input gives the same bytes."""
    rng = np.random.default_rng(0)
    for shape in ((120, 20, 20), (4, 60, 60), (1, 1, 1)):
        image = rng.integers(-200, 700, shape, dtype=np.int16)
        mask = rng.integers(0, 14, shape, dtype=np.uint8)
        names = [f"a long name of class {number}" for number in range(13)]
        first = three_planes(image, (1, 1, 1), mask=mask, names=names, size_px=900, title="t")
        second = three_planes(image, (1, 1, 1), mask=mask, names=names, size_px=900, title="t")
        assert first.size[0] <= 900 + 2 * MARGIN
        assert first.tobytes() == second.tobytes()
        assert isinstance(first, Image.Image)
        assert not first.info


def test_cuts_run_through_the_labels() -> None:
    """A small structure far from the middle is what the picture shows."""
    image = np.zeros(SHAPE, np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 24:27, 33:37] = 1

    plain, labelled = (three_planes(image, SPACING, mask=m, names=()) for m in (None, mask))

    assert plain.tobytes() != labelled.tobytes()


def test_wrong_shapes_are_programming_mistakes() -> None:
    """A mask of another grid would be drawn in the wrong place."""
    with pytest.raises(ValueError, match="mask has shape"):
        three_planes(np.zeros(SHAPE), SPACING, mask=np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="image_hu has shape"):
        three_planes(np.zeros((3, 3)), SPACING)


def test_short_names() -> None:
    """Short forms keep numbers apart and never grow beyond four characters."""
    assert initials("RCC") == "RCC"
    assert initials("membranous_septum_1") == "MS1"
    assert initials("leftCoronaryOstium") == "LCO"
    assert initials("annulus") == "ann"
    assert len({initials(name) for name in ("septum_1", "septum_2")}) == 2
    assert all(a <= b for a, b in pairwise([len(initials("x" * n)) for n in (1, 2, 3)]))
