"""Laws of averaging that an auditor may rely on."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.server.rounds.averaging import BLOCK, GroupAverage

Update = dict[str, NDArray[np.float32]]

SHAPES = {"trunk.weight": (3, 4), "trunk.scale": (), "head.a.weight": (2,), "head.b.weight": (5, 1)}


def manifest_of(shapes: dict[str, tuple[int, ...]]) -> Manifest:
    return Manifest(
        tensors=tuple(
            TensorSpec(name=name, shape=shape, dtype="float32", group=name.rpartition(".")[0])
            for name, shape in shapes.items()
        )
    )


MANIFEST = manifest_of(SHAPES)
EVERYWHERE = {"trunk": 1, "head.a": 1, "head.b": 1}


def update(seed: int) -> Update:
    rng = np.random.default_rng(seed)
    return {name: np.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}


def average(*sites: tuple[Update, dict[str, int]], previous: Update | None = None) -> Update:
    total = GroupAverage(MANIFEST)
    for weights, samples in sites:
        total.add(weights, samples)
    return total.finish(previous or update(999))


def times(count: int) -> dict[str, int]:
    return dict.fromkeys(EVERYWHERE, count)


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_one_site_is_identity(count: int) -> None:
    """Averaging a single site returns its weights, whatever its size."""
    result = average((update(0), times(count)))

    for name, value in update(0).items():
        np.testing.assert_allclose(result[name], value, rtol=3e-7)
        assert result[name].shape == value.shape
        assert result[name].dtype == np.float32


@pytest.mark.parametrize("seed", range(10))
def test_splitting_a_site_changes_nothing(seed: int) -> None:
    """A hospital that reports as two halves carries the same weight as one."""
    a, b = update(seed), update(seed + 100)
    n, m = seed + 1, 3

    whole = average((a, times(2 * n)), (b, times(m)))
    split = average((a, times(n)), (a, times(n)), (b, times(m)))

    for name in SHAPES:
        np.testing.assert_allclose(whole[name], split[name], rtol=1e-5, atol=1e-6)


def test_order_only_rounds() -> None:
    """Another order of sites gives the same average to float32; the same order the same bytes."""
    sites = [(update(seed), times(seed + 1)) for seed in range(6)]

    first, again, other = average(*sites), average(*sites), average(*sites[::-1])

    for name in SHAPES:
        assert first[name].tobytes() == again[name].tobytes()
        np.testing.assert_allclose(first[name], other[name], rtol=1e-5, atol=1e-6)


def test_it_is_the_weighted_mean() -> None:
    """Against the formula in float64."""
    sites = [(update(seed), {"trunk": seed, "head.a": 7, "head.b": 5 - seed}) for seed in range(4)]
    result = average(*sites)

    for name in SHAPES:
        group = name.rpartition(".")[0]
        counts = [samples[group] for _, samples in sites]
        expected = np.average([w[name].astype(np.float64) for w, _ in sites], 0, counts)
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=1e-6)


def test_a_site_without_a_label_never_dilutes_its_head() -> None:
    """Its head holds noise, or NaN for all we know: with no case behind it, it is not looked at."""
    owner, other = update(1), update(2)
    other["head.a.weight"] = np.full(2, np.nan, np.float32)

    result = average((owner, times(2)), (other, {"trunk": 9, "head.b": 9, "head.a": 0}))
    absent = average((owner, times(2)), (other, {"trunk": 9, "head.b": 9}))

    np.testing.assert_allclose(result["head.a.weight"], owner["head.a.weight"], rtol=1e-6)
    assert absent["head.a.weight"].tobytes() == result["head.a.weight"].tobytes()


def test_a_group_nobody_trained_keeps_its_weights() -> None:
    """No case, no change: not zero, not NaN."""
    previous = update(5)

    result = average((update(1), {"trunk": 3}), (update(2), {"trunk": 1}), previous=previous)

    for name in ("head.a.weight", "head.b.weight"):
        assert result[name].tobytes() == previous[name].tobytes()
    assert result["trunk.weight"].tobytes() != previous["trunk.weight"].tobytes()


def test_the_updates_are_left_alone() -> None:
    """The sum is a copy: an update can be recorded after it was added."""
    weights = update(1)
    before = {name: value.tobytes() for name, value in weights.items()}

    average((weights, times(3)), (weights, times(2)))

    assert {name: value.tobytes() for name, value in weights.items()} == before


@pytest.mark.parametrize("samples", [{"trunk": -1}, {"patients": 3}, {"trunk": 1, "": 1}])
def test_counts_that_do_not_fit(samples: dict[str, int]) -> None:
    """An unknown group or a negative count is refused before anything is added."""
    total = GroupAverage(MANIFEST)

    with pytest.raises(ContractError) as caught:
        total.add(update(1), samples)

    assert caught.value.code == "STR-304"
    assert total.totals == dict.fromkeys(EVERYWHERE, 0)


def test_large_tensors_are_added_in_blocks() -> None:
    """A tensor longer than a block, and not a multiple of it, is summed to its end."""
    size = 2 * BLOCK + 17
    total = GroupAverage(manifest_of({"g.w": (size,)}))
    value = np.arange(size, dtype=np.float32)
    total.add({"g.w": value}, {"g": 1})
    total.add({"g.w": value[::-1]}, {"g": 1})  # not contiguous either

    np.testing.assert_allclose(total.finish({})["g.w"], (size - 1) / 2, rtol=1e-6)


def peak(sites: int) -> int:
    shape = (512, 1024)  # 2 MiB
    total = GroupAverage(manifest_of({"g.w": shape}))
    weights = {"g.w": np.ones(shape, np.float32)}
    tracemalloc.start()
    for number in range(sites):
        total.add(weights, {"g": number + 1})
    total.finish(weights)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_is_one_model_from_two_to_sixteen_sites() -> None:
    """The sum is the only copy; the number of sites does not show."""
    two, sixteen = peak(2), peak(16)

    assert two < 2.2 * 2**20
    assert sixteen <= two + 4096
