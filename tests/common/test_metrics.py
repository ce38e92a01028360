"""The numbers that may travel: a whitelist, finite values, and no small counts."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.errors import ContractError
from stillroom.common.metrics import COUNTS, allowed_metrics, check_metrics, suppress_small
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
    """A count below the cohort is 0; everything else, and every count that is not, is untouched."""
    left = suppress_small({name: value}, min_cohort)[name]
    is_count = name.rsplit(".", 1)[-1] in COUNTS

    assert left == (0 if is_count and value < min_cohort else value)


def test_every_count_of_cases_is_suppressed() -> None:
    """A new count must be added to COUNTS; what is left are scores, losses and seconds."""
    rest = {name.rsplit(".", 1)[-1] for name in ALLOWED} - COUNTS

    assert rest == {"loss", "seconds", "dice", "detected", "found", "error_mm"}
