"""What the noise of a study's privacy buys: epsilon, round by round.

The mechanism is a Gaussian one at the site (``Privacy``): a change of norm at most C plus noise of
standard deviation zC in every value. Two data sets that a site might have held give changes that
are up to 2C apart, opposite points of the ball, so what counts is z/2. This is the reading that
protects a site whose part in the study is known; assuming instead that the other data set gives
no change at all would halve the distance, and the number, and promise less than it says.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from stillroom.common.errors import ResourceError

PRECISION = 1e4
"""Parts of one that epsilon is rounded up to: a last bit that differs between machines must not
make another study."""
FAR = 30.0
"""Standard deviations beyond which a Gaussian's tail is its asymptote to 1 in 1000."""


def epsilons(noise_multiplier: float, delta: float, *, rounds: int) -> tuple[float, ...]:
    """Epsilon after each of ``rounds`` rounds, by Flower's Rényi accountant (``dp-accounting``).

    Rényi divergences of the rounds add up (Mironov 2017, arXiv:1702.07476, proposition 1) and
    become epsilon by Canonne et al. 2020 (arXiv:2004.00010, proposition 12). No credit is taken
    for sampling: a site takes part in every round.

    Args:
        noise_multiplier: Standard deviation of the noise in units of the clipping norm.
        delta: In (0, 1).
        rounds: At least 1.

    Raises:
        ResourceError: STR-500, the accountant is not installed on this workstation.
    """
    # Here, not at the top: a server and a courier read this module and have no accountant.
    from flwr.serverapp import (  # noqa: PLC0415
        GaussianPrivacyEvent,
        NeighboringRelation,
        PrivacyConfig,
        RdpAccountant,
        SamplingMethod,
    )

    # Without sampling the relation names only what the multiplier refers to, and ours is halved
    # below; Flower takes no other name here.
    config = PrivacyConfig(
        target_delta=delta,
        population_size=1,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        sampling_method=SamplingMethod.NO_AMPLIFICATION,
    )
    try:
        accountant = RdpAccountant(config)
    except ImportError as error:
        raise ResourceError(
            "The study asks for privacy, and the accountant that states epsilon is not installed.",
            fix='Install it here: pip install "stillroom[privacy]".',
            code="STR-500",
        ) from error
    event = GaussianPrivacyEvent(noise_multiplier / 2, sample_size=1, population_size=1)
    spent: list[float] = []
    for _ in range(rounds):
        accountant.compose(event)
        spent.append(_rounded_up(accountant.get_epsilon(delta)))
    # More rounds never cost less, whatever the accountant's grid of orders makes of it.
    return tuple(accumulate(spent, max))


def exact_delta(epsilon: float, noise_multiplier: float, rounds: int) -> float:
    """The least delta that holds for ``epsilon`` after ``rounds`` rounds, in closed form.

    Rounds of Gaussian noise together are one, sqrt(rounds) times as far apart; for one, Balle &
    Wang 2018 (arXiv:1805.06530, theorem 8). An accountant's epsilon may be larger than the one
    that this allows, never smaller.
    """
    distance = 2 / noise_multiplier * math.sqrt(rounds)
    near, far = epsilon / distance - distance / 2, epsilon / distance + distance / 2
    if far > FAR:
        # exp(epsilon) overflows beside a tail that underflows; their product does neither.
        second = math.exp(-(near**2) / 2) / (far * math.sqrt(2 * math.pi))
    else:
        second = math.exp(epsilon) * _tail(far)
    return _tail(near) - second


def _tail(x: float) -> float:
    """Share of a standard Gaussian above ``x``."""
    return math.erfc(x / math.sqrt(2)) / 2


def _rounded_up(epsilon: float) -> float:
    return math.ceil(epsilon * PRECISION) / PRECISION


def together(epsilon: Sequence[float], delta: Sequence[float]) -> tuple[float, float]:
    """Epsilon and delta of several stages taken together: their sums (basic composition)."""
    return math.fsum(epsilon), math.fsum(delta)
