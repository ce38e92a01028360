"""Label maps land where the network saw them, on every grid a scan can come on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from stillroom.client.predict.segmentation import Options, segment
from stillroom.client.release import Release

FLIPS = [
    (1, 0, 0, 0, 1, 0, 0, 0, 1),
    (-1, 0, 0, 0, 1, 0, 0, 0, 1),
    (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    (0, 0, 1, 1, 0, 0, 0, 1, 0),
    (0, -1, 0, 0, 0, -1, 1, 0, 0),
]


def positions_of(image: sitk.Image) -> np.ndarray:
    """(D, H, W, 3) LPS mm of every voxel centre."""
    k, j, i = np.indices(image.GetSize()[::-1])
    index = np.stack([i, j, k], -1) * np.asarray(image.GetSpacing())
    return index @ np.asarray(image.GetDirection()).reshape(3, 3).T + np.asarray(image.GetOrigin())


def expected_of(hu: np.ndarray) -> np.ndarray:
    """What ``Threshold`` says of Hounsfield units."""
    return np.where((hu >= 100) & (hu < 250), 1, np.where((hu >= 250) & (hu <= 900), 2, 0))


@pytest.mark.parametrize("direction", FLIPS)
@pytest.mark.parametrize("coarse", [True, False])
def test_permuted_and_flipped_grids_are_exact(
    ball_scan: Callable[..., sitk.Image],
    release: Release,
    options: Options,
    direction: tuple[float, ...],
    coarse: bool,
) -> None:
    """At the study's spacing every voxel gets exactly the class of its own intensity."""
    image = ball_scan((52, 44, 60), direction=direction)
    findings = segment(image, release, replace(options, coarse=coarse))
    assert findings.place.how == ("student" if coarse else "whole field of view")
    expected = expected_of(sitk.GetArrayViewFromImage(image))
    np.testing.assert_array_equal(findings.masks["chambers"], expected)
    assert findings.points["landmarks"]["A"] == pytest.approx((5, -7, 11), abs=1.0)
    assert findings.points["landmarks"]["B"] is None


def test_oblique_and_anisotropic_grids(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """Turned by 30 degrees and on other spacings, classes stay at their place in the patient."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turned = (c, -s, 0, s * c, c * c, -s, s * s, s * c, c)
    for spacing in ((0.9, 0.9, 2.5), (2.0, 2.0, 2.0), (3.3, 2.7, 1.5)):
        size = tuple(int(110 / v) for v in spacing)
        image = ball_scan(size, spacing, turned)
        mask = segment(image, release, options).masks["chambers"]
        expected = expected_of(sitk.GetArrayViewFromImage(image))
        # The two halves blur into each other where the bright one meets soft tissue; the union does not.
        a, b = mask > 0, expected > 0
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95
        shift = np.argwhere(a).mean(0) - np.argwhere(b).mean(0)
        assert np.abs(shift * spacing[::-1]).max() < 0.8  # a shift by half a voxel would be 1.0
        # Left stays left: class centres are apart along the patient's x.
        positions = positions_of(image)
        assert positions[mask == 1].mean(0)[0] < positions[mask == 2].mean(0)[0] - 10


@pytest.mark.parametrize("size", [(20, 20, 12), (33, 20, 50), (32, 32, 32)])
def test_scans_smaller_than_a_window(
    ball_scan: Callable[..., sitk.Image],
    release: Release,
    options: Options,
    size: tuple[int, int, int],
) -> None:
    """A scan smaller than a window along any axis is padded, and the padding is cut off again."""
    image = ball_scan(size, radius_mm=14.0, centre_mm=(0.0, 0.0, 0.0))
    findings = segment(image, release, options)
    expected = expected_of(sitk.GetArrayViewFromImage(image))
    np.testing.assert_array_equal(findings.masks["chambers"], expected)


def test_heart_box_is_small_and_sufficient(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """The box holds the ball with the study's margin, and not the rest of a large scan."""
    image = ball_scan((100, 90, 110), radius_mm=30)
    findings = segment(image, release, options)
    assert findings.place.box_mm is not None
    low, high = findings.place.box_mm
    for centre, a, b in zip((5, -7, 11), low, high, strict=True):
        assert centre - 30 - 8 - 8 <= a <= centre - 30 - 4
        assert centre + 30 + 4 <= b <= centre + 30 + 8 + 8
    expected = expected_of(sitk.GetArrayViewFromImage(image))
    np.testing.assert_array_equal(findings.masks["chambers"], expected)


def test_scan_without_heart_warns(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """A scan of air is read as a whole and both warnings say what that means."""
    image = ball_scan((40, 40, 40), radius_mm=0, centre_mm=(900.0, 0.0, 0.0))
    findings = segment(image, release, options)
    assert findings.place.how == "whole field of view"
    assert not findings.masks["chambers"].any()
    text = " ".join(findings.warnings)
    assert "whole field of view" in text
    assert "probably shows none" in text
    assert "Not found of chambers: LV, RV." in text


def test_spilling_to_disk_changes_nothing(
    ball_scan: Callable[..., sitk.Image], release: Release, options: Options
) -> None:
    """With almost no memory the same label map comes out, and no file stays behind."""
    image = ball_scan((60, 50, 70))
    roomy = segment(image, release, options)
    tight = segment(image, release, replace(options, memory_mib=0.5))
    np.testing.assert_array_equal(roomy.masks["chambers"], tight.masks["chambers"])
    assert not list(options.folder.iterdir())
