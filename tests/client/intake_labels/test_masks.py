"""Masks in four formats come back voxel-exact, whatever the scan's orientation."""

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from stillroom.client.intake.catalogue import LabelCandidate
from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.labels import read_mask
from stillroom.client.intake.labels_rtstruct import fill
from stillroom.client.intake.matching import match_labels
from stillroom.client.intake.rules import LabelRule, Rules
from stillroom.common.errors import DataError
from stillroom.common.study import MaskLabel

LABEL = MaskLabel(kind="mask", classes=("outer", "inner", "dot"))
EYE = tuple(np.eye(3).ravel())
FLIPPED = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
SQUARE = np.asarray([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def write_mask(path: Path, mask: NDArray[np.generic], like: sitk.Image) -> Path:
    image = sitk.GetImageFromArray(mask)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))
    return path


def write_seg(path: Path, series: object, masks: NDArray[np.generic], kind: str = "BINARY") -> Path:
    """``masks`` is (D, H, W, segments), in the order of the files."""
    names = ("Outer", "INNER", "dot")
    seg = hd.seg.Segmentation(
        source_images=series.datasets,  # type: ignore[attr-defined]
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.AnatomicalStructure,
                segmented_property_type=codes.SCT.Heart,
                algorithm_type="MANUAL",
            )
            for number, name in enumerate(names[: masks.shape[-1]], 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", [EYE, FLIPPED, (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1.0)])
def test_label_map_is_voxel_exact(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    truth: NDArray[np.uint8],
    suffix: str,
    direction: tuple[float, ...],
) -> None:
    """What was written on a scan is read back on it, also when the scan is oblique."""
    scan = make_image(direction)

    read = read_mask(write_mask(tmp_path / f"m{suffix}", truth, scan), LABEL, None, scan)

    np.testing.assert_array_equal(read, truth)


def test_axes_in_another_order_are_the_same_anatomy(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """NIfTI converters flip and permute axes; physical space decides."""
    scan = make_image()
    image = sitk.GetImageFromArray(truth)
    image.CopyInformation(scan)
    moved = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, False, True])
    sitk.WriteImage(moved, str(tmp_path / "m.nii.gz"))

    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", LABEL, None, scan), truth)


def test_values_are_chosen_by_the_site(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """With `classes` a file may use any values, and others in it mean nothing to this label."""
    scan = make_image()
    path = write_mask(tmp_path / "m.nrrd", truth.astype(np.int16) * 100, scan)

    read = read_mask(path, LABEL, {"outer": 200, "dot": 100}, scan)

    np.testing.assert_array_equal(read, np.select([truth == 2, truth == 1], [1, 3], 0))


@pytest.mark.parametrize("bad", [4.0, -1.0, 0.5, np.nan])
def test_unexpected_value_is_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8], bad: float
) -> None:
    """A value that no class has, a fraction or NaN is not silently background."""
    values = truth.astype(np.float32)
    values[0, 0, 0] = bad
    scan = make_image()

    with pytest.raises(DataError) as caught:
        read_mask(write_mask(tmp_path / "m.nrrd", values, scan), LABEL, None, scan)

    assert caught.value.code == "STR-431"


def test_empty_mask_needs_the_sites_word(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """An empty mask is a forgotten one unless the site says that absence is a finding."""
    scan = make_image()
    path = write_mask(tmp_path / "m.nii.gz", truth * 0, scan)

    with pytest.raises(DataError, match="absent_is_background"):
        read_mask(path, LABEL, None, scan)

    assert not read_mask(path, LABEL, None, scan, absent_is_background=True).any()


def test_mask_elsewhere_is_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """A mask whose voxels all lie outside of the scan belongs to something else."""
    path = write_mask(tmp_path / "m.nii.gz", truth, make_image(origin=(500.0, 0, 0)))

    with pytest.raises(DataError) as caught:
        read_mask(path, LABEL, None, make_image())

    assert caught.value.code == "STR-432"


def test_slicer_segmentation_is_read_by_name(
    tmp_path: Path, make_image: Callable[..., sitk.Image], truth: NDArray[np.uint8]
) -> None:
    """3D Slicer writes names into the header and may number its segments as it likes."""
    scan = make_image()
    image = sitk.GetImageFromArray(truth)
    image.CopyInformation(scan)
    for number, (name, value) in enumerate((("Dot", 3), ("Inner", 1), ("outer", 2))):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Layer", "0")
    path = tmp_path / "m.seg.nrrd"
    sitk.WriteImage(image, str(path))

    read = read_mask(path, LABEL, None, scan)

    np.testing.assert_array_equal(read, np.asarray([0, 2, 1, 3], np.uint8)[truth])


@pytest.mark.parametrize("direction", [EYE, (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1.0)])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_seg_is_voxel_exact(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    write_series: Callable[..., object],
    truth: NDArray[np.uint8],
    direction: tuple[float, ...],
    kind: str,
) -> None:
    """Empty frames are left out by the writer, names differ in case; the voxels are the same."""
    scan = make_image(direction)
    series = write_series(tmp_path / "ct", scan)
    masks = np.stack([truth == index for index in (1, 2, 3)], axis=-1)
    dtype = np.float32 if kind == "FRACTIONAL" else np.uint8

    path = write_seg(tmp_path / "s.dcm", series, masks.astype(dtype), kind)

    np.testing.assert_array_equal(read_mask(path, LABEL, None, scan), truth)
    by_number = read_mask(path, LABEL, {"outer": 2, "inner": 1, "dot": 3}, scan)
    np.testing.assert_array_equal(by_number, np.asarray([0, 2, 1, 3], np.uint8)[truth])


def test_overlap_goes_to_the_class_listed_last(
    tmp_path: Path, make_image: Callable[..., sitk.Image], write_series: Callable[..., object]
) -> None:
    """Nested segments keep the inner one when the study lists it after the outer."""
    scan = make_image()
    masks = np.zeros((8, 9, 10, 2), np.uint8)
    masks[2:6, 2:7, 2:8, 0] = 1
    masks[3:5, 3:6, 3:7, 1] = 1
    path = write_seg(tmp_path / "s.dcm", write_series(tmp_path / "ct", scan), masks)
    nested = MaskLabel(kind="mask", classes=("outer", "inner"))

    read = read_mask(path, nested, None, scan)

    np.testing.assert_array_equal(read, np.where(masks[..., 1], 2, masks[..., 0]))


def test_seg_without_the_segment_is_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image], write_series: Callable[..., object]
) -> None:
    """The message names what the study wants, not what the file holds."""
    series = write_series(tmp_path / "ct")
    path = write_seg(tmp_path / "s.dcm", series, np.ones((8, 9, 10, 1), np.uint8))

    with pytest.raises(DataError, match="aorta") as caught:
        read_mask(path, MaskLabel(kind="mask", classes=("aorta",)), None, make_image())

    assert "Outer" not in str(caught.value)


@pytest.mark.parametrize("direction", [EYE, FLIPPED, (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1.0)])
def test_contours_around_voxels_are_voxel_exact(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    write_rtstruct: Callable[..., Path],
    truth: NDArray[np.uint8],
    direction: tuple[float, ...],
) -> None:
    """A contour along the outer edges of voxels encloses exactly these, on any orientation."""
    scan = make_image(direction)
    regions = {
        name: [outline(scan, np.argwhere(truth[k] == index), k) for k in range(8)]
        for index, name in enumerate(("Outer", "inner", "DOT"), 1)
    }
    whole = {n: [c for cs in many for c in cs] for n, many in regions.items()}

    path = write_rtstruct(tmp_path / "rt.dcm", whole)

    np.testing.assert_array_equal(read_mask(path, LABEL, None, scan), truth)


def outline(scan: sitk.Image, voxels: NDArray[np.intp], k: int) -> list[NDArray[np.float64]]:
    """One square per voxel: by the even-odd rule they add up."""
    squares = []
    for j, i in voxels:
        ends = np.column_stack([SQUARE + np.asarray((i, j)), np.full(4, float(k))])
        squares.append(Grid.of(scan).to_mm(ends))
    return squares


def circle(
    scan: sitk.Image, radius: float, k: float, centre: tuple[float, float]
) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    points = np.column_stack(
        [centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn), np.full(400, k)]
    )
    return Grid.of(scan).to_mm(points)


def test_inner_contour_cuts_a_hole() -> None:
    """The area of a ring is that of the outer less that of the inner circle."""
    scan = sitk.Image([200, 200, 3], sitk.sitkInt16)

    filled = fill([circle(scan, 80, 1, (99.3, 99.6)), circle(scan, 40, 1, (99.3, 99.6))], scan)

    assert not filled[0].any()
    assert not filled[2].any()
    assert not filled[1, 100, 100]
    assert filled[1].sum() == pytest.approx(np.pi * (80**2 - 40**2), rel=2e-3)


def test_regions_that_share_an_edge_share_no_voxel() -> None:
    """A voxel centre on the common edge belongs to one of the two, never to both or none."""
    scan = sitk.Image([20, 20, 1], sitk.sitkInt16)
    left = np.asarray([[2.0, 2, 0], [9, 2, 0], [9, 12, 0], [2, 12, 0]])
    right = np.asarray([[9.0, 2, 0], [15, 2, 0], [15, 12, 0], [9, 12, 0]])

    a, b, both = fill([left], scan), fill([right], scan), fill([left, right], scan)

    assert not (a & b).any()
    np.testing.assert_array_equal(a | b, both)
    assert both.sum() == 13 * 10


def test_contour_reaching_out_of_the_picture_is_cut() -> None:
    """The part inside is kept, from whichever side the contour comes in."""
    scan = sitk.Image([20, 20, 1], sitk.sitkInt16)
    wide = np.asarray([[-50.0, -50, 0], [50, -50, 0], [50, 9.5, 0], [-50, 9.5, 0]])

    filled = fill([wide], scan)

    assert filled[0, :10].all()
    assert not filled[0, 10:].any()


@pytest.mark.parametrize("k", [1.4, -1.0, 3.0])
def test_contour_off_the_slices_is_refused(k: float) -> None:
    """Between two slices, before the first or after the last one nothing is filled by guess."""
    scan = sitk.Image([60, 60, 3], sitk.sitkInt16)

    with pytest.raises(DataError) as caught:
        fill([circle(scan, 20, k, (30, 30))], scan)

    assert caught.value.code == "STR-432"


@pytest.mark.parametrize("content", [b"", b"DICM" * 40, b"\0" * 128 + b"DICM" + b"\xff" * 300])
@pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.dcm"])
def test_damaged_file_is_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image], name: str, content: bytes
) -> None:
    """Any damage ends in a code, and the message does not quote the file's name."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_mask(tmp_path / name, LABEL, None, make_image())

    assert caught.value.code == "STR-431"
    assert name not in str(caught.value)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_damaged_dicom_never_crashes(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    write_series: Callable[..., object],
    write_rtstruct: Callable[..., Path],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cut anywhere or with bytes overwritten, a file is read or refused; nothing is logged of it."""
    scan = make_image()
    path = tmp_path / "label.dcm"
    if kind == "seg":
        write_seg(path, write_series(tmp_path / "ct", scan), np.ones((8, 9, 10, 1), np.uint8))
    else:
        square = np.asarray([[2.0, 2, 3], [5, 2, 3], [5, 6, 3], [2, 6, 3]])
        write_rtstruct(path, {"outer": [Grid.of(scan).to_mm(square)] * 3})
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    label = MaskLabel(kind="mask", classes=("outer",))
    candidate = LabelCandidate(path, "seg" if kind == "seg" else "rtstruct")
    rules = Rules(labels={"outer": LabelRule(files="*")})
    for trial in range(60):
        damaged = bytearray(whole[: int(rng.integers(132, len(whole)))] if trial % 2 else whole)
        for place in rng.integers(132, len(damaged), 0 if trial % 2 else 25):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        code = ""
        try:
            read_mask(path, label, None, scan)
        except DataError as error:
            code = error.code
        assert code in {"", "STR-431", "STR-432", "STR-422"}
        assert len(match_labels([], [candidate], rules, root=tmp_path)) == 1
    assert not caplog.records
