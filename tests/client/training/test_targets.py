"""Laws of points as balls, and of masks and scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.client.training.metrics import ClassResult, dice, score_mask, score_points, summarise
from stillroom.client.training.targets import (
    Grid,
    decode_mask,
    decode_points,
    largest_component,
    missing_classes,
    rasterise,
)

NAMES = ("a", "b", "c")
spacing = st.floats(0.5, 5.0)
share = st.floats(0.3, 0.7)


def probabilities(classes: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count + 1, dtype=np.float32)[classes].transpose(3, 0, 1, 2)


@settings(max_examples=60, deadline=None)
@given(st.tuples(spacing, spacing, spacing), st.tuples(share, share, share), st.floats(0.1, 8))
def test_a_ball_decodes_to_its_point(
    spacing_mm: tuple[float, float, float], place: tuple[float, float, float], radius: float
) -> None:
    """Within half a voxel along every axis, whatever the grid and the radius."""
    grid = Grid((40, 42, 44), spacing_mm, (-17.0, 3.0, 250.0))
    point = grid.point_at(np.asarray(place) * np.asarray(grid.shape))

    target = rasterise({"b": point}, NAMES, radius_mm=radius, grid=grid)
    found = decode_points(probabilities(target, 3), NAMES, grid=grid)

    assert found["a"] is None
    assert found["c"] is None
    assert found["b"] is not None
    for said, there, voxel in zip(found["b"], point, spacing_mm, strict=True):
        assert abs(said - there) <= voxel / 2 + 1e-3


def test_the_nearer_point_wins_where_balls_overlap() -> None:
    """Every voxel of two overlapping balls belongs to the closer centre."""
    grid = Grid((20, 20, 20), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    points = {"a": (8.0, 9.0, 20.0), "b": (12.0, 9.0, 20.0)}

    target = rasterise(points, NAMES, radius_mm=5.0, grid=grid)

    for index in np.argwhere(target):
        mm = grid.point_at(index)
        nearer = 1 if math.dist(mm, points["a"]) <= math.dist(mm, points["b"]) else 2
        assert target[tuple(index)] == nearer


def test_order_of_names_alone_decides_the_class() -> None:
    """Permuting the names permutes the classes and moves no voxel."""
    grid = Grid((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    points = {"a": (5.0, 5.0, 5.0), "b": (14.0, 14.0, 14.0), "c": None}

    forward = rasterise(points, ("a", "b", "c"), radius_mm=3, grid=grid)
    backward = rasterise(points, ("c", "b", "a"), radius_mm=3, grid=grid)

    assert np.array_equal(np.array([0, 3, 2, 1])[forward], backward)


def test_a_point_outside_the_grid_leaves_no_trace() -> None:
    """Nothing is painted at the border in its stead."""
    grid = Grid((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))

    assert not rasterise({"a": (-3.0, 4.0, 4.0)}, NAMES, radius_mm=6, grid=grid).any()


def test_decoding_ignores_the_smaller_blob() -> None:
    """A stray voxel far away does not pull the point."""
    grid = Grid((16, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    target = rasterise({"a": (5.0, 5.0, 5.0)}, ("a",), radius_mm=2, grid=grid)
    target[14, 14, 14] = 1

    found = decode_points(probabilities(target, 1), ("a",), grid=grid)["a"]

    assert found == pytest.approx((5.0, 5.0, 5.0))


def test_probabilities_weigh_the_centre() -> None:
    """A voxel that is surer of the class counts for more."""
    grid = Grid((1, 1, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    p = np.array([0.0, 0.6, 0.9, 0.0], np.float32).reshape(1, 1, 4)

    found = decode_points(np.stack([1 - p, p]), ("a",), grid=grid)["a"]

    assert found == pytest.approx((1.6, 0.0, 0.0))


def test_empty_masks_have_no_component() -> None:
    """Nothing found is None, not an empty mask."""
    assert largest_component(np.zeros((3, 3, 3), bool)) is None


def test_missing_classes_are_counted() -> None:
    """The completeness filter asks for every class."""
    assert missing_classes(np.array([[[0, 1, 3]]], np.uint8), 3) == 1
    assert missing_classes(np.zeros((1, 1, 1), np.uint8), 3) == 3


@given(st.integers(0, 2**27 - 1), st.integers(0, 2**27 - 1))
def test_dice_identities(left: int, right: int) -> None:
    """Symmetric, one for equal masks, zero for disjoint ones, never outside [0, 1]."""
    a, b = (np.array([int(c) for c in f"{n:027b}"], bool) for n in (left, right))

    assert dice(a, a) == 1.0
    assert dice(a, b) == dice(b, a)
    assert 0.0 <= dice(a, b) <= 1.0
    if (a | b).any():
        assert dice(a & ~b, b & ~a) in {0.0, 1.0} or not (a & ~b).any()
        assert (dice(a, b) == 0.0) == (not (a & b).any())


def test_masks_decode_to_the_most_probable_class() -> None:
    """Decoding a one-hot map gives the map."""
    classes = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)

    assert np.array_equal(decode_mask(probabilities(classes, 3)), classes)


def test_a_class_absent_from_the_truth_is_not_scored() -> None:
    """There is no Dice of nothing."""
    truth, said = np.zeros((2, 2, 2), np.uint8), np.ones((2, 2, 2), np.uint8)
    truth[0] = 2

    assert set(score_mask(said, truth, ("one", "two"), min_dice=0.5)) == {"two"}


def test_a_missed_point_is_a_failure_and_moves_no_other() -> None:
    """Truth is looked up by name: the original code shifted all points after a miss."""
    truth = {"a": (0.0, 0.0, 0.0), "b": (50.0, 0.0, 0.0), "c": None}

    scores = score_points({"a": None, "b": (53.0, 4.0, 0.0)}, truth, tolerance_mm=10)

    assert scores == {
        "a": ClassResult(None, None, found=False, detected=False),
        "b": ClassResult(None, 5.0, found=True, detected=True),
    }


def test_summaries_count_misses_and_hold_no_nan() -> None:
    """One of two cases missed halves the rate and leaves the other's error."""
    miss = ClassResult(None, None, found=False, detected=False)
    hit = ClassResult(None, 3.0, found=True, detected=True)

    numbers = summarise("p", [{"a": miss, "b": miss}, {"a": hit, "b": miss}])

    assert numbers["eval.p.a.detected"] == 0.5
    assert numbers["eval.p.a.error_mm"] == 3.0
    assert numbers["eval.p.b.detected"] == 0.0
    assert "eval.p.b.error_mm" not in numbers
    assert all(math.isfinite(value) for value in numbers.values())
