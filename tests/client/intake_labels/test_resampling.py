"""The study's grid: exact where it can be, unbiased where it cannot."""

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid, is_same_grid
from stillroom.client.intake.resampling import resample_image, resample_mask, target_for
from stillroom.client.intake.roi import box_around, widened


def test_scan_on_the_studys_grid_keeps_its_voxels(
    make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """An axis-aligned scan at the study's spacing is copied bit for bit."""
    scan = make_image()

    target = target_for(Grid.of(scan), scan.GetSpacing())

    assert target is not None
    assert is_same_grid(target.grid, Grid.of(scan))
    np.testing.assert_array_equal(resample_image(scan, target), sitk.GetArrayFromImage(scan))
    np.testing.assert_array_equal(resample_mask(truth, scan, target, 3), truth)


def test_flipped_scan_is_turned_not_mirrored(
    make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """Axes that run the other way are turned round, voxel for voxel."""
    scan = make_image((-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))

    target = target_for(Grid.of(scan), scan.GetSpacing())

    assert target is not None
    values = sitk.GetArrayFromImage(scan)
    np.testing.assert_array_equal(resample_image(scan, target), values[:, ::-1, ::-1])
    np.testing.assert_array_equal(resample_mask(truth, scan, target, 3), truth[:, ::-1, ::-1])


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(*[st.integers(2, 40)] * 3),
    native=st.tuples(*[st.floats(0.3, 5)] * 3),
    wanted=st.tuples(*[st.floats(0.5, 8)] * 3),
)
def test_grid_covers_the_scan(
    size: tuple[int, int, int],
    native: tuple[float, float, float],
    wanted: tuple[float, float, float],
) -> None:
    """Centred on the scan, and no more than half a voxel short or long on any side."""
    source = Grid.make(size, native, (3.0, -7.0, 11.0), np.eye(3).ravel().tolist())

    target = target_for(source, wanted)

    assert target is not None
    ours, theirs = target.grid.corners(), source.corners()
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=1e-6)
    extent = np.ptp(theirs, axis=0)
    short = np.abs(np.ptp(ours, axis=0) - extent)
    allowed = np.maximum(np.asarray(wanted) / 2, np.asarray(wanted) - extent)
    assert (short <= allowed + 1e-4).all()


def ramp(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> sitk.Image:
    """An image whose value is the sum of its coordinates in mm, times 3."""
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    k, j, i = np.mgrid[: size[2], : size[1], : size[0]]
    values = 3 * (i * spacing[0] + j * spacing[1] + k * spacing[2])
    filled = sitk.GetImageFromArray(values.astype(np.float32))
    filled.CopyInformation(image)
    return filled


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (0.5, 0.4, 0.9), (2.1, 2.4, 3.3)])
def test_positions_are_exact(wanted: tuple[float, float, float]) -> None:
    """A linear ramp in mm is the same ramp on any grid: nothing is shifted by half a voxel."""
    scan = ramp((40, 36, 24), (0.4, 0.5, 1.1))

    target = target_for(Grid.of(scan), wanted)

    assert target is not None
    got = resample_image(scan, target)[2:-2, 2:-2, 2:-2]
    k, j, i = np.mgrid[2 : target.shape[0] - 2, 2 : target.shape[1] - 2, 2 : target.shape[2] - 2]
    mm = [o + n * s for o, n, s in zip(target.origin_mm, (i, j, k), wanted, strict=True)]
    np.testing.assert_allclose(got, 3 * sum(mm), atol=0.51)


def test_coarse_grid_does_not_alias() -> None:
    """A pattern finer than the grid becomes its mean rather than stripes."""
    values = np.indices((32, 32, 32)).sum(axis=0) % 2 * 1000
    scan = sitk.GetImageFromArray(values.astype(np.int16))

    target = target_for(Grid.of(scan), (4.0, 4.0, 4.0))

    assert target is not None
    assert np.abs(resample_image(scan, target) - 500).max() <= 1


def test_small_classes_survive_and_volumes_are_kept(make_image: Callable[..., sitk.Image]) -> None:
    """A ball keeps its volume within a few percent; one voxel of calcium keeps one voxel."""
    z, y, x = np.mgrid[:40, :40, :40]
    mask = (((x - 20) ** 2 + (y - 19) ** 2 + (z - 21) ** 2) < 12**2).astype(np.uint8)
    mask[3, 4, 5] = 2
    scan = sitk.Image([40, 40, 40], sitk.sitkInt16)

    for side in (0.7, 1.6, 2.3, 3.1):
        target = target_for(Grid.of(scan), (side,) * 3)
        assert target is not None
        moved = resample_mask(mask, scan, target, 2)
        assert (moved == 1).sum() * side**3 == pytest.approx((mask == 1).sum(), rel=0.06)
        assert (moved == 2).any()


def test_thin_neighbours_do_not_vanish_between_them() -> None:
    """Two touching sheets, each under half a voxel but together over it, leave no hole."""
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[:, :, 13], mask[:, :, 14] = 1, 2
    scan = sitk.Image([30, 30, 30], sitk.sitkInt16)

    target = target_for(Grid.of(scan), (3.0, 3.0, 3.0))

    assert target is not None
    moved = resample_mask(mask, scan, target, 2)
    assert (moved.any(axis=2)).all()


def test_box_selects_voxels_of_the_same_lattice(make_image: Callable[..., sitk.Image]) -> None:
    """Cropping changes no value; a box beside the scan is no crop at all."""
    scan = make_image()
    whole = target_for(Grid.of(scan), (0.9, 0.9, 0.9))
    mask = np.zeros((8, 9, 10), np.uint8)
    mask[3, 4, 5] = 1
    box = box_around(mask, Grid.of(scan))
    assert whole is not None
    assert box is not None

    cropped = target_for(Grid.of(scan), (0.9, 0.9, 0.9), widened(box, 1.0))

    assert cropped is not None
    shift = (np.asarray(cropped.origin_mm) - np.asarray(whole.origin_mm)) / 0.9
    np.testing.assert_allclose(shift, np.rint(shift), atol=1e-6)
    i, j, k = np.rint(shift).astype(int)
    depth, height, width = cropped.shape
    np.testing.assert_allclose(
        resample_image(scan, cropped),
        resample_image(scan, whole)[k : k + depth, j : j + height, i : i + width],
        atol=1,  # a value of exactly n + 1/2 may round either way
    )
    assert target_for(Grid.of(scan), (0.9, 0.9, 0.9), ((500, 0, 0), (510, 5, 5))) is None


def test_oblique_scan_is_covered_with_air_around(
    make_image: Callable[..., sitk.Image], tilted: tuple[float, ...]
) -> None:
    """Every voxel of an oblique scan has a place; the corners of its bounding box are air."""
    scan = make_image(tilted)
    target = target_for(Grid.of(scan), (0.6, 0.6, 0.6))

    assert target is not None
    values = resample_image(scan, target)
    assert values[4, 0, 0] == -1024
    index = np.asarray([[5.0, 4.0, 3.0]])
    place = target.grid.to_index(Grid.of(scan).to_mm(index))[0]
    assert (place > 0).all()
    assert (place < np.asarray(target.size)).all()
