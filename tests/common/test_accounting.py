"""Epsilon is what the literature says it is, and never less than the closed form allows."""

import math
import subprocess
import sys
from itertools import pairwise

import pytest

from stillroom.common.accounting import epsilons, exact_delta, together
from stillroom.common.errors import ResourceError

DELTA = 1e-5


def exact(noise_multiplier: float, rounds: int) -> float:
    """The least epsilon at ``DELTA``, by bisection of the closed form."""
    low, high = 0.0, 1e7
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if exact_delta(middle, noise_multiplier, rounds) > DELTA
            else (low, middle)
        )
    return high


def test_known_values() -> None:
    """Noise as large as the distance: 4.73 by Rényi's way, 4.38 exactly (Balle & Wang 2018)."""
    # Data sets are 2 clipping norms apart, so a multiplier of 2 is the textbook's sigma = 1.
    assert epsilons(2.0, DELTA, rounds=3) == pytest.approx((4.7286, 7.0774, 9.0100), abs=1e-3)
    assert exact(2.0, 1) == pytest.approx(4.3772, abs=1e-3)


def test_renyi_formula() -> None:
    """The accountant's number is the minimum over orders of the published formula."""
    for rounds in (1, 7, 40):
        candidates = []
        for order in (1 + step / 10 for step in range(1, 620)):
            renyi = rounds * order / (2 * 1.5**2)
            candidates.append(
                renyi + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)
            )
        assert epsilons(3.0, DELTA, rounds=rounds)[-1] == pytest.approx(min(candidates), abs=2e-3)


@pytest.mark.parametrize("noise_multiplier", [0.05, 0.5, 2.0, 8.0, 50.0])
@pytest.mark.parametrize("rounds", [1, 10, 100])
def test_never_understated(noise_multiplier: float, rounds: int) -> None:
    """At least the exact value, and at most a fifth more; every round costs."""
    spent = epsilons(noise_multiplier, DELTA, rounds=rounds)

    assert len(spent) == rounds
    assert all(before < after for before, after in pairwise(spent))
    assert 1 <= spent[-1] / exact(noise_multiplier, rounds) <= 1.2
    assert exact_delta(spent[-1], noise_multiplier, rounds) <= DELTA


def test_stages_add_up() -> None:
    """Basic composition."""
    assert together([1.5, 2.0], [1e-5, 1e-6]) == (3.5, pytest.approx(1.1e-5))


def test_no_accountant_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix names what to install."""
    monkeypatch.setitem(sys.modules, "dp_accounting", None)

    with pytest.raises(ResourceError) as caught:
        epsilons(1.0, DELTA, rounds=1)

    assert caught.value.code == "STR-500"
    assert "stillroom[privacy]" in caught.value.fix


def test_nobody_else_loads_the_accountant() -> None:
    """Server, courier and runner read prepared numbers; they work where it is not installed."""
    code = (
        "import sys\n"
        "sys.modules['dp_accounting'] = None\n"
        "import stillroom.server.cli, stillroom.server.study_run, stillroom.common.study\n"
        "import stillroom.client.privacy\n"
        "assert not any(name.startswith(('tree', 'absl')) for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
