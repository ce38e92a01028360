"""The server's optimisers against the algorithm as it is printed."""

import math

import numpy as np
import pytest

from stillroom.common.study import Aggregation
from stillroom.server.rounds.adaptive import is_adaptive, start_of, step


def printed(changes: list[float], rules: Aggregation) -> list[float]:
    """Algorithm 2 of Reddi et al. 2021 for one coordinate, in float64, line by line."""
    m, v, steps = 0.0, rules.tau**2, []
    for change in changes:
        m = rules.beta1 * m + (1 - rules.beta1) * change
        if rules.server == "fedadam":
            v = rules.beta2 * v + (1 - rules.beta2) * change**2
        else:
            v = v - (1 - rules.beta2) * change**2 * math.copysign(
                0.0 if v == change**2 else 1.0, v - change**2
            )
        steps.append(rules.learning_rate * m / (math.sqrt(v) + rules.tau))
    return steps


@pytest.mark.parametrize("server", ["fedadam", "fedyogi"])
@pytest.mark.parametrize("beta2", [0.99, 0.5])
def test_it_is_the_algorithm(server: str, beta2: float) -> None:
    """Twenty rounds of a thousand coordinates; float32 loses no more than its last digits."""
    rules = Aggregation(server=server, beta2=beta2)
    rng = np.random.default_rng(0)
    changes = (rng.standard_normal((20, 50)) * 10.0 ** rng.integers(-5, 1, 50)).astype(np.float32)
    first = np.full(50, start_of("first", rules), np.float32)
    second = np.full(50, start_of("second", rules), np.float32)

    steps = np.array([step(change, first, second, rules) for change in changes])

    for column in range(50):
        expected = printed([float(value) for value in changes[:, column]], rules)
        np.testing.assert_allclose(steps[:, column], expected, rtol=2e-4, atol=1e-9)
    assert steps.dtype == np.float32


@pytest.mark.parametrize("server", ["fedadam", "fedyogi"])
def test_no_change_no_step(server: str) -> None:
    """Nothing moves out of nothing, and a change is not written over."""
    rules = Aggregation(server=server)
    zero = np.zeros(3, np.float32)

    assert not step(zero, zero.copy(), np.full(3, rules.tau**2, np.float32), rules).any()

    change = np.ones(3, np.float32)
    step(change, zero.copy(), zero.copy(), rules)
    assert change.tobytes() == np.ones(3, np.float32).tobytes()


def test_plain_averaging_keeps_nothing() -> None:
    """Only the adaptive ones have moments."""
    assert not is_adaptive(Aggregation())
    assert is_adaptive(Aggregation(server="fedyogi"))
