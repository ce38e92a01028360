"""Laws of the rules that a hostile site cannot bend."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.common.study import Aggregation
from stillroom.server.rounds.robust import median, network, rule_of, trimmed_mean, trimmed_sites


def values(count: int, seed: int = 0, size: int = 101) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_network_sorts_everything(count: int) -> None:
    """By the 0-1 principle (Knuth, 5.3.4, theorem Z) all sequences of zeros and ones suffice."""
    columns = np.array(list(itertools.product([0, 1], repeat=count))).T.copy()
    for low, high in network(count):
        columns[[low, high]] = np.sort(columns[[low, high]], axis=0)

    assert np.array_equal(columns, np.sort(columns, axis=0))


@pytest.mark.parametrize("count", [*range(1, 18), 33, 50])
def test_median_is_the_median(count: int) -> None:
    """Against NumPy in float64."""
    given = values(count, seed=count)

    expected = np.median(given.astype(np.float64), axis=0)

    np.testing.assert_allclose(median(given.copy()), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("count", "share", "cut"), [
    (1, 0.2, 0), (2, 0.4, 0), (3, 0.1, 1), (5, 0.2, 1), (10, 0.2, 2), (10, 0.29, 2), (10, 0.49, 4),
    (4, 0.49, 1), (7, 0.45, 3),
])  # fmt: skip
def test_trimmed_mean_is_the_mean_of_the_middle(count: int, share: float, cut: int) -> None:
    """At least one site at each end once there are three; never all of them."""
    given = values(count, seed=count)
    middle = np.sort(given.astype(np.float64), axis=0)[cut : count - cut]

    assert trimmed_sites(count, share) == cut
    np.testing.assert_allclose(
        trimmed_mean(given.copy(), share), middle.mean(axis=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("method", ["median", "trimmed-mean"])
@pytest.mark.parametrize("seed", range(5))
def test_order_of_sites_does_not_show(method: str, seed: int) -> None:
    """Not even in the last bit: values are summed from the least up."""
    rule = rule_of(Aggregation(method=method))
    given = values(7, seed)
    shuffled = np.random.default_rng(seed).permutation(given)

    assert rule(given.copy()).tobytes() == rule(shuffled).tobytes()


@pytest.mark.parametrize("method", ["median", "trimmed-mean"])
@pytest.mark.parametrize("lie", [3e38, -3e38, 1e9, np.inf, -np.inf])
def test_one_hostile_site_moves_nothing_out_of_the_honest_range(method: str, lie: float) -> None:
    """Whatever it sends, every coordinate stays between what honest sites sent."""
    honest = values(4)
    liar = np.full((1, honest.shape[1]), lie, np.float32)

    result = rule_of(Aggregation(method=method))(np.concatenate([liar, honest]))

    assert np.all(result >= honest.min(axis=0))
    assert np.all(result <= honest.max(axis=0))


def test_the_mean_is_no_rule() -> None:
    """It needs no block of every site at once."""
    with pytest.raises(KeyError):
        rule_of(Aggregation())
