"""When a claim passes, fails, or says nothing."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location(
    "science_verdicts", Path(__file__).with_name("verdicts.py")
)
assert _spec is not None
assert _spec.loader is not None
verdicts = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = verdicts
_spec.loader.exec_module(verdicts)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.1, 1.2, 1.3], "PASS"),
        ([0.9, 0.8, 0.7], "FAIL"),
        ([0.9, 1.2, 1.3], "INCONCLUSIVE"),
        ([1.0, 1.0, 1.0], "FAIL"),
        ([1.1, float("nan"), 1.3], "INCONCLUSIVE"),
        ([1.1, 4e5, 1.3], "INCONCLUSIVE"),
        ([5.0, 5.0], "not run"),
        ([], "not run"),
    ],
)
def test_an_interval_decides(ratios: list[float], verdict: str) -> None:
    """Wholly on the gate's side passes, wholly on the other fails; too few seeds are not run."""
    assert verdicts.judge(verdicts.Gate("r", ">", 1.0), ratios).verdict == verdict


@pytest.mark.parametrize(
    ("side", "inside", "outside"),
    [(">", 1.01, 1.0), (">=", 1.0, 0.99), ("<", 0.99, 1.0), ("<=", 1.0, 1.01)],
)
def test_a_gate_knows_its_side(side: str, inside: float, outside: float) -> None:
    """The bound itself belongs to a gate only where the sign says so."""
    gate = verdicts.Gate("r", side, 1.0)

    assert gate.admits(inside)
    assert not gate.admits(outside)


def test_three_seeds_span_their_interval() -> None:
    """With three seeds the interval is the smallest and the largest, and holds in three of four cases."""
    assert verdicts.interval([1.5, 0.9, 1.1]) == (0.9, 1.5)
    assert verdicts.confidence(3) == 0.75
    assert verdicts.confidence(0) == 0.0


def test_many_seeds_narrow_it() -> None:
    """One odd seed among many does not move the interval to itself."""
    low, high = verdicts.interval([1.1 + 0.01 * k for k in range(12)] + [0.2])

    assert low > 1.0
    assert high < 1.22


def test_the_drawing_is_repeatable() -> None:
    """The same ratios give the same interval."""
    ratios = [1.0, 1.3, 0.8, 1.1, 1.2, 0.95]

    assert verdicts.interval(ratios) == verdicts.interval(ratios)


def test_a_claim_is_as_good_as_its_worst_gate() -> None:
    """What was not run never passes, whatever else did."""
    assert verdicts.together(["PASS", "PASS"]) == "PASS"
    assert verdicts.together(["PASS", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert verdicts.together(["INCONCLUSIVE", "FAIL"]) == "FAIL"
    assert verdicts.together(["PASS", "not run"]) == "not run"
    assert verdicts.together([]) == "not run"


@pytest.mark.parametrize(("scans", "least"), [(48, 0.6385), (10_000, 0.5095)])
def test_chance_has_a_height(scans: int, least: float) -> None:
    """Of few scans chance makes much; drawn, about one in twenty areas lies above it."""
    rng = np.random.default_rng(0)
    assert verdicts.chance(scans) == pytest.approx(least, abs=1e-3)
    if scans < 100:
        draws = rng.random((2_000, scans))
        above = draws[:, : scans // 2, None] > draws[:, None, scans // 2 :]
        share = (above.mean((1, 2)) > verdicts.chance(scans)).mean()
        assert share == pytest.approx(0.05, abs=0.015)
