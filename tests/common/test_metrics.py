"""The numbers that may travel: a whitelist, finite values, and no small counts."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.errors import ContractError
from stillroom.common.metrics import (
    COUNTS,
    SCORES,
    allowed_metrics,
    check_cohort,
    check_metrics,
    suppress_small,
)
from stillroom.common.study import Study

STUDY = Study.parse(
    {
        "study": {"name": "metrics"},
        "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
        "label": {
            "vessels": {"kind": "mask", "classes": ["AO", "PA"]},
            "hinge": {"kind": "points", "names": ["NCC"]},
        },
        "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
        "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
    }
)
ALLOWED = sorted(allowed_metrics(STUDY))


def refused(metrics: dict[str, Any]) -> ContractError:
    with pytest.raises(ContractError) as caught:
        check_metrics(metrics, STUDY)
    assert caught.value.code == "STR-304"
    return caught.value


def test_whitelist_is_that_of_the_study() -> None:
    """Names come from the study's labels and classes, and from nowhere else."""
    assert "eval.vessels.PA.dice" in ALLOWED
    assert "eval.hinge.NCC.error_mm" in ALLOWED
    assert "pseudo.hinge.incomplete" in ALLOWED
    assert "eval.chambers.LV.dice" not in ALLOWED
    assert "eval.vessels.dice" not in ALLOWED


@given(st.sets(st.sampled_from(ALLOWED)), st.floats(0, 1))
def test_whitelisted_possible_numbers_pass(names: set[str], value: float) -> None:
    """Everything a site has to say fits the whitelist."""
    check_metrics(dict.fromkeys(names, value), STUDY)
    check_metrics({"train.loss": -3.5, "train.seconds": 1e6, "eval.cases": 12}, STUDY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eval.vessels.AO.dice", 1.5),
        ("eval.vessels.AO.detected", -0.1),
        ("eval.vessels.AO.cases", -1),
        ("eval.hinge.NCC.error_mm", -2.0),
        ("train.seconds", -1.0),
        ("train.loss", 1e300),
        ("inventory.cases", 2**62),
    ],
)
def test_impossible_numbers(name: str, value: float) -> None:
    """Two sites with 1 and -1 cases would divide by zero; 1e300 would drown every other site."""
    refused({name: value})


@given(st.text())
def test_any_other_name_is_refused_and_not_repeated(name: str) -> None:
    """The name itself may be a patient's; the refusal says how many, never which."""
    if name in ALLOWED:
        return
    error = refused({"train.loss": 1.0, f"DOE^JANE{name}": 1.0})

    assert "DOE" not in str(error)
    assert "1 of 2" in error.what


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, True, "0.5", None, [0.1], {"a": 1}, b"x", 1 + 2j]
)
def test_values_that_are_not_finite_numbers(value: object) -> None:
    """A list, a string or NaN under a good name is still refused."""
    refused({"train.loss": value})


@given(st.sampled_from(ALLOWED), st.integers(1, 50), st.integers(0, 100))
def test_small_counts_leave_as_zero(name: str, min_cohort: int, value: int) -> None:
    """A count below the cohort is 0; a score without its count stays here; the rest is untouched."""
    left = suppress_small({name: value}, min_cohort)
    what = name.rsplit(".", 1)[-1]

    if what in SCORES:
        assert left == {}
    else:
        assert left == {name: 0 if what in COUNTS and value < min_cohort else value}


CLASS = st.fixed_dictionaries(
    {
        "cases": st.integers(0, 12),
        "found": st.integers(0, 12).map(lambda n: n / 12),
        "detected": st.floats(0, 1),
        "error_mm": st.floats(0, 100),
    }
)


@given(CLASS, CLASS, st.integers(1, 12))
def test_scores_of_few_scans_stay_here(
    one: dict[str, float], other: dict[str, float], min_cohort: int
) -> None:
    """Either a class tells its count and every score, or a 0 and none; distances ask for more."""
    told = {
        f"eval.{name}.{what}": value
        for name, numbers in (("hinge.NCC", one), ("vessels.AO", other))
        for what, value in numbers.items()
    }
    left = suppress_small(told, min_cohort)

    for name, numbers in (("hinge.NCC", one), ("vessels.AO", other)):
        mine = {
            key.rsplit(".", 1)[-1]: v for key, v in left.items() if key.startswith(f"eval.{name}")
        }
        if numbers["cases"] < min_cohort:
            assert mine == {"cases": 0}
        else:
            assert {k: v for k, v in mine.items() if k != "error_mm"} == {
                k: v for k, v in numbers.items() if k != "error_mm"
            }
            found = round(numbers["cases"] * numbers["found"])
            assert ("error_mm" in mine) == (found >= min_cohort)
    check_cohort(left, min_cohort)
    if left != told:
        with pytest.raises(ContractError) as caught:
            check_cohort(told, min_cohort)
        assert caught.value.code == "STR-304"


def test_one_scan_is_enough_where_the_study_says_so() -> None:
    """A minimum of 1 hides nothing but what was made from nothing."""
    told = {"eval.hinge.NCC.cases": 1, "eval.hinge.NCC.found": 1.0, "eval.hinge.NCC.error_mm": 2.5}
    check_cohort(told, 1)
    assert suppress_small(told, 1) == told
    assert suppress_small(told, 2) == {"eval.hinge.NCC.cases": 0}


def test_every_count_of_cases_is_suppressed() -> None:
    """A new count must be added to COUNTS; what is left are scores, losses and seconds."""
    rest = {name.rsplit(".", 1)[-1] for name in ALLOWED} - COUNTS

    assert rest == {"loss", "seconds", "dice", "detected", "found", "error_mm"}
