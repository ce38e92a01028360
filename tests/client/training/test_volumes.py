"""Laws of patches, grids and windows."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stillroom.client.training.cases import Case, crop, resample, transfer
from stillroom.client.training.device import choose_device, seeded
from stillroom.client.training.inference import predict, window_starts
from stillroom.client.training.sampling import Sampler, cut, normalise
from stillroom.client.training.targets import Grid
from stillroom.common.errors import ResourceError
from stillroom.common.study import Volume

VOLUME = Volume(spacing_mm=(1.0, 1.0, 1.0), patch=(12, 10, 8), hu_window=(-100, 100))


def case(shape: tuple[int, int, int], **more: Any) -> Case:
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    image = np.random.default_rng(0).integers(-100, 100, shape).astype(np.int16)
    targets = {"bright": (image > 50).astype(np.uint8)}
    return Case("case", grid, image, targets, more.get("condition"))


def sampler(one: Case, seed: int = 0) -> Sampler:
    return Sampler(
        ["case"],
        lambda _: one,
        labels=("bright", "never"),
        volume=VOLUME,
        batch_size=3,
        seed=seed,
    )


@pytest.mark.parametrize("shape", [(4, 5, 6), (8, 10, 12), (30, 20, 25)])
def test_patches_have_the_studys_size(shape: tuple[int, int, int]) -> None:
    """Volumes smaller than a patch are padded; only labels present are in the batch."""
    batch = sampler(case(shape)).draw()

    assert batch.x.shape == (3, 1, 8, 10, 12)
    assert batch.x.dtype == torch.float32
    assert set(batch.targets) == {"bright"}
    assert batch.targets["bright"].classes.shape == (3, 8, 10, 12)
    assert batch.targets["bright"].classes.dtype == torch.int64


def test_equal_seeds_draw_equal_batches() -> None:
    """And different ones different batches."""
    one = case((20, 20, 20))
    first, again, other = (sampler(one, seed).draw().x for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_condition_is_the_second_channel_unscaled() -> None:
    """The label map goes in as raw integers, moved like the image."""
    condition = np.full((20, 20, 20), 7, np.uint8)

    x = sampler(case((20, 20, 20), condition=condition)).draw().x

    assert x.shape[1] == 2
    assert (x[:, 1] == 7).any()
    assert set(x[:, 1].unique().tolist()) <= {0.0, 7.0}


def test_every_case_comes_once_before_any_comes_again() -> None:
    """Small sites are seen whole."""
    one = case((12, 12, 12))
    many = Sampler(
        [f"{n}" for n in range(6)],
        lambda name: Case(name, one.grid, one.image, one.targets, None),
        labels=("bright",),
        volume=VOLUME,
        batch_size=3,
        seed=0,
    )

    assert len({*many.draw().ids, *many.draw().ids}) == 6


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0, 0.8))
def test_windows_cover_every_voxel(size: int, window: int, overlap: float) -> None:
    """No gap, no window outside, and neighbours overlap by what was asked."""
    starts = window_starts(size, window, overlap)

    if size <= window:
        assert len(starts) == 1
        assert starts[0] <= 0 <= size <= starts[0] + window
    else:
        assert starts[0] == 0
        assert starts[-1] == size - window
        steps = np.diff(starts)
        assert steps.max() <= window * (1 - overlap) + 1


class Threshold(nn.Module):
    """Says 1 where the input is positive: what it says of a voxel depends on no other."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of dark and bright."""
        return {"bright": torch.cat([-9 * x[:, :1], 9 * x[:, :1]], 1)}


@pytest.mark.parametrize("shape", [(5, 7, 6), (8, 10, 12), (21, 17, 33)])
def test_windows_join_without_seams(shape: tuple[int, int, int]) -> None:
    """A voxelwise network gives the same result in windows as on the whole."""
    one = case(shape)

    found = predict(Threshold(), one, volume=VOLUME, device=choose_device("cpu"))["bright"]

    x = normalise(torch.from_numpy(one.image), VOLUME.hu_window)[None, None]
    expected = Threshold()(x)["bright"].softmax(1)[0].numpy()
    assert found.shape == (2, *shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cutting_fills_what_lies_outside() -> None:
    """Including a cut that misses the array altogether."""
    array = np.arange(8).reshape(2, 2, 2)

    assert cut(array, (-1, 0, 0), (2, 2, 2), fill=-1).tolist()[0] == [[-1, -1], [-1, -1]]
    assert (cut(array, (5, 0, 0), (2, 2, 2), fill=-1) == -1).all()


def test_a_crop_keeps_every_voxel_in_its_place() -> None:
    """Millimetres of a voxel do not change by cropping; a box elsewhere crops nothing."""
    one = case((20, 22, 24))

    part, grid = crop(one.image, one.grid, ((6.0, 5.0, 4.0), (12.0, 11.0, 10.0)), margin_mm=2)
    whole, _ = crop(one.image, one.grid, ((90.0, 90.0, 90.0), (99.0, 99.0, 99.0)), margin_mm=2)

    assert grid.origin_mm == (4.0, 3.0, 2.0)
    assert part.shape == grid.shape == (11, 11, 11)
    assert part[0, 0, 0] == one.image[2, 3, 4]
    assert whole.shape == one.image.shape


@pytest.mark.parametrize("spacing", [(2.5, 2.5, 2.5), (0.5, 0.5, 0.5)])
def test_resampling_keeps_places(spacing: tuple[float, float, float]) -> None:
    """A gradient along x stays that gradient, coarser or finer, to half an old voxel."""
    grid = Grid((10, 10, 20), (1.0, 1.0, 1.0), (5.0, 0.0, 0.0))
    ramp = np.broadcast_to((np.arange(20) + 5) * 10, grid.shape).astype(np.int16)

    values, new = resample(ramp, grid, spacing)

    x = new.origin_mm[0] + np.arange(new.shape[2]) * new.spacing_mm[0]
    np.testing.assert_allclose(values[0, 0, 2:-2], x[2:-2] * 10, atol=5)


def test_classes_move_to_another_grid_and_back() -> None:
    """Cropping and padding back keeps what was inside and clears the rest."""
    whole = Grid((10, 10, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    inner = Grid((4, 4, 4), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0))
    classes = np.random.default_rng(1).integers(0, 5, whole.shape).astype(np.uint8)

    back = transfer(transfer(classes, whole, inner), inner, whole)

    assert np.array_equal(back[2:6, 2:6, 2:6], classes[2:6, 2:6, 2:6])
    assert np.count_nonzero(back) == np.count_nonzero(classes[2:6, 2:6, 2:6])


def test_a_seed_is_local() -> None:
    """Seeding a round changes neither the caller's generator nor its settings."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)

    with seeded(choose_device("cpu"), 99):
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(5)

    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a CUDA device here.")
def test_asking_for_a_missing_gpu_is_an_error() -> None:
    """Only ``auto`` falls back, and says why."""
    assert "no CUDA" in choose_device("auto").reason
    with pytest.raises(ResourceError):
        choose_device("cuda")
