"""A missed point is a failure, never a gap: the arithmetic of the tables people read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.study import Study
from stillroom.server.rounds.scores import tabulate, weighted_median

STUDY = Study.parse(
    {
        "study": {"name": "scores"},
        "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
        "label": {
            "vessels": {"kind": "mask", "classes": ["AO", "PA"]},
            "hinge": {"kind": "points", "names": ["NCC", "RCC"]},
        },
        "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
        "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
    }
)


def mask(item: str, cases: int, dice: float, detected: float) -> dict[str, float]:
    prefix = f"eval.vessels.{item}."
    return {prefix + "cases": cases, prefix + "dice": dice, prefix + "detected": detected}


def point(
    name: str, cases: int, detected: float, error_mm: float | None = None
) -> dict[str, float]:
    prefix = f"eval.hinge.{name}."
    found = {} if error_mm is None else {prefix + "error_mm": error_mm}
    return {
        prefix + "cases": cases,
        prefix + "detected": detected,
        prefix + "found": 0.0 if error_mm is None else 1.0,
        **found,
    }


def test_one_site() -> None:
    """Means over classes; `cases` is the most any class had."""
    site = {**mask("AO", 4, 0.9, 1.0), **mask("PA", 2, 0.5, 0.5)}
    table = tabulate(STUDY, {"river": site}, ["river"])

    assert table["river"]["vessels"]["mean_dice"] == 0.7
    assert table["river"]["vessels"]["detection_rate"] == 0.75
    assert table["river"]["vessels"]["cases"] == 4
    assert table["pooled"] == table["river"]
    assert "hinge" not in table["river"]


def test_pooling_weighs_by_cases() -> None:
    """A site with nine cases counts nine times one with a single case."""
    table = tabulate(
        STUDY,
        {"a": mask("AO", 9, 1.0, 1.0), "b": mask("AO", 1, 0.0, 0.0), "c": mask("AO", 5, 0.5, 1.0)},
        ["a", "b"],
    )

    assert table["pooled"]["vessels"]["classes"]["AO"] == {
        "cases": 10,
        "dice": 0.9,
        "detected": 0.9,
    }
    assert set(table) == {"a", "b", "c", "pooled"}


def test_what_a_site_keeps_is_no_gap_in_the_others() -> None:
    """Scores over too few scans never leave a site: the pool is then made of the rest."""
    kept = {"eval.vessels.AO.cases": 0, "eval.vessels.PA.cases": 0, "eval.cases": 0}
    few_found = {
        "eval.hinge.NCC.cases": 5,
        "eval.hinge.NCC.found": 0.4,
        "eval.hinge.NCC.detected": 0.2,
    }
    table = tabulate(STUDY, {"a": {**kept, **few_found}, "b": mask("AO", 5, 0.8, 1.0)}, ["a", "b"])

    assert table["pooled"]["vessels"] == table["b"]["vessels"]
    assert set(table["a"]) == {"hinge"}
    assert table["a"]["hinge"]["median_error_mm"] is None
    assert table["a"]["hinge"]["detection_rate"] == 0.2
    assert tabulate(STUDY, {"a": kept}, ["a"]) == {"a": {}}


def test_a_missed_point_lowers_detection_and_is_never_nan() -> None:
    """A point nobody found has no error, and the table says 0 %, not NaN."""
    table = tabulate(STUDY, {"a": {**point("NCC", 4, 1.0, 3.0), **point("RCC", 4, 0.0)}}, ["a"])[
        "a"
    ]["hinge"]

    assert table["detection_rate"] == 0.5
    assert table["median_error_mm"] == 3.0
    assert "error_mm" not in table["classes"]["RCC"]

    nothing = tabulate(STUDY, {"a": point("NCC", 4, 0.0)}, ["a"])["pooled"]["hinge"]
    assert (nothing["detection_rate"], nothing["median_error_mm"]) == (0.0, None)
    json.dumps(nothing, allow_nan=False)


def test_a_class_nobody_has_is_absent() -> None:
    """No case is not a score of zero."""
    table = tabulate(STUDY, {"a": {**mask("AO", 2, 0.8, 1.0), **mask("PA", 0, 0.0, 0.0)}}, ["a"])

    assert list(table["a"]["vessels"]["classes"]) == ["AO"]
    assert table["a"]["vessels"]["mean_dice"] == 0.8


@pytest.mark.parametrize("by_site", [{}, {"a": {}}, {"a": {"eval.cases": 0}}])
def test_no_scores_no_pool(by_site: dict[str, dict[str, float]]) -> None:
    """Nothing was scored, and the table does not pretend."""
    assert "pooled" not in tabulate(STUDY, by_site, by_site)


def test_errors_of_sites_pool_as_a_weighted_median() -> None:
    """Two small sites with a bad median do not outvote a large one."""
    table = tabulate(
        STUDY,
        {
            "a": point("NCC", 10, 1.0, 2.0),
            "b": point("NCC", 2, 1.0, 30.0),
            "c": point("NCC", 2, 1.0, 40.0),
        },
        ["a", "b", "c"],
    )

    assert table["pooled"]["hinge"]["median_error_mm"] == 2.0


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(5.0, 1.0)], 5.0),
        ([(1.0, 1.0), (2.0, 1.0), (9.0, 1.0)], 2.0),
        ([(9.0, 3.0), (1.0, 1.0)], 9.0),
        ([(1.0, 0.0), (7.0, 0.0)], 1.0),
    ],
)
def test_weighted_median(pairs: list[tuple[float, float]], expected: float) -> None:
    """The value at which half of the weight is reached."""
    assert weighted_median(pairs) == expected


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0.01, 50)), min_size=1, max_size=20))
def test_weighted_median_is_one_of_the_values(pairs: list[tuple[float, float]]) -> None:
    """Never in between, never outside, whatever the order."""
    value = weighted_median(pairs)

    assert value in [v for v, _ in pairs]
    assert value == weighted_median(pairs[::-1])
