"""What leaves a site under privacy is bounded, noised everywhere, and cannot be drawn again."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.client.privacy import fresh_noise, privatise
from stillroom.common.stage import Privacy

SHAPES = {"a": (300, 400), "b": (7,), "untouched": (5, 5)}


class Silence(np.random.Generator):
    """Noise of standard deviation zero."""

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Zeros."""
        return np.zeros(size)


def silence() -> Silence:
    return Silence(np.random.PCG64(0))


def models(step: float) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """A global model and one trained from it, of which one tensor did not move."""
    rng = np.random.default_rng(3)
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    moved = {
        name: value + np.float32(step) * rng.normal(size=value.shape)
        for name, value in base.items()
    }
    moved["untouched"] = base["untouched"].copy()
    return base, {name: value.astype(np.float32) for name, value in moved.items()}


def distance(one: dict[str, NDArray], other: dict[str, NDArray]) -> float:
    return float(np.sqrt(sum(((one[k].astype(float) - other[k]) ** 2).sum() for k in one)))


def test_a_change_is_shortened_to_the_bound() -> None:
    """A long one to exactly the bound, in its own direction; a short one not at all."""
    base, far = models(1.0)
    before = {name: value - base[name] for name, value in far.items()}
    privatise(far, base, Privacy(clip_norm=2.0, noise_multiplier=1.0), noise=silence())
    assert distance(far, base) == pytest.approx(2.0, rel=1e-4)
    direction = (far["a"] - base["a"]).ravel() @ before["a"].ravel()
    assert direction / 2.0 == pytest.approx(np.linalg.norm(before["a"]), rel=1e-2)

    base, near = models(1e-4)
    kept = {name: value.copy() for name, value in near.items()}
    privatise(near, base, Privacy(clip_norm=2.0, noise_multiplier=1.0), noise=silence())
    assert distance(near, kept) < 1e-4


def test_every_value_is_noised() -> None:
    """With the deviation the study says, in tensors that training left alone too."""
    base, weights = models(0.0)

    privatise(
        weights, base, Privacy(clip_norm=0.5, noise_multiplier=3.0), noise=np.random.default_rng(1)
    )

    change = np.concatenate([(weights[name] - base[name]).ravel() for name in SHAPES])
    assert np.count_nonzero(weights["untouched"] == base["untouched"]) == 0
    assert change.std() == pytest.approx(1.5, rel=0.01)
    assert abs(change.mean()) < 0.02
    assert all(value.dtype == np.float32 for value in weights.values())


def test_noise_comes_from_nowhere() -> None:
    """Neither NumPy's seed nor anything else of the study makes it come again."""
    base, first = models(0.1)
    second = {name: value.copy() for name, value in first.items()}

    for weights in (first, second):
        np.random.seed(0)  # noqa: NPY002  # what must have no effect
        privatise(weights, base, Privacy(clip_norm=1.0, noise_multiplier=1.0))

    assert distance(first, second) > 1.0
    assert fresh_noise().standard_normal() != fresh_noise().standard_normal()


@pytest.mark.parametrize("wrong", ["names", "dtype", "layout"])
def test_nothing_leaves_bare(wrong: str) -> None:
    """A tensor that cannot be noised stops the round."""
    base, weights = models(0.1)
    if wrong == "names":
        del weights["b"]
    elif wrong == "dtype":
        weights["b"] = weights["b"].astype(np.float64)
    else:
        weights["a"] = np.asfortranarray(weights["a"])

    with pytest.raises(ValueError, match=r"differ|float32|contiguous"):
        privatise(weights, base, Privacy(clip_norm=1.0, noise_multiplier=1.0))
