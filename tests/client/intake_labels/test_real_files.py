"""Labels that nobody here made: public files, good and broken. Skipped without STILLROOM_TEST_DATA."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from stillroom.client.data_cli import data
from stillroom.client.intake.catalogue import Catalogue, LabelFile
from stillroom.client.intake.index import scan
from stillroom.client.intake.labels import read_mask
from stillroom.client.intake.rules import LabelRule, Rules
from stillroom.common.errors import DataError
from stillroom.common.study import MaskLabel


def load(*files: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in sorted(files)])
    return reader.Execute()


def counts(path: Path, classes: tuple[str, ...], scan_image: sitk.Image) -> list[int]:
    mask = read_mask(path, MaskLabel(kind="mask", classes=classes), None, scan_image)
    return np.bincount(mask.ravel(), minlength=len(classes) + 1)[1:].tolist()


def test_seg_of_five_overlapping_segments(real_data: Path) -> None:
    """Alone, each segment has as many voxels as its frames; together the later ones win."""
    ct = load(*(real_data / "dcmqi/ct-3slice").glob("*.dcm"))
    path = real_data / "dcmqi/partial_overlaps.dcm"
    names = ("GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE")

    alone = [counts(path, (name,), ct)[0] for name in names]
    together = counts(path, names, ct)

    assert together[-1] == alone[-1]
    assert sum(together) < sum(alone)
    assert all(a <= b for a, b in zip(together, alone, strict=True))
    assert counts(real_data / "dcmqi/liver.dcm", ("liver",), ct) == [107098]


def test_seg_and_nrrd_of_one_liver_agree(real_data: Path) -> None:
    """The same segmentation in two formats gives the same voxels; a sparse label map is read too."""
    for size in ("23x38x3", "24x38x3"):
        folder = real_data / "dcmqi" / size
        ct = load(*(folder / "image").glob("*.dcm"))
        label = MaskLabel(kind="mask", classes=("liver",))
        seg = read_mask(folder / "seg/label.seg", label, None, ct)
        nrrd = read_mask(folder / "nrrd/label.nrrd", label, None, ct)
        np.testing.assert_array_equal(seg, nrrd)
    ct = load(*(real_data / "dcmqi/24x38x3/image").glob("*.dcm"))
    assert counts(real_data / "dcmqi/sparse-labelmap-ppv5.dcm", ("liver",), ct) == [630]


def test_structure_sets_good_and_broken(real_data: Path) -> None:
    """The good one is filled; contours beyond the series are refused rather than moved."""
    folder = real_data / "rt-utils"
    ct = load(*(folder / "mock_data").glob("ct_*.dcm"))

    assert counts(folder / "mock_data/rt.dcm", ("roi-1",), ct)[0] == pytest.approx(1443, abs=20)
    for name in ("invalid_reference_rt", "non_existent_reference_rt"):
        with pytest.raises(DataError) as caught:
            counts(folder / f"mock_data/{name}.dcm", ("ROI-1",), ct)
        assert caught.value.code == "STR-432"


def matched(real_data: Path, folder: str, state: Path, **files: str) -> tuple[LabelFile, ...]:
    rules = Rules(labels={name: LabelRule(files=glob) for name, glob in files.items()})
    return scan(real_data / folder, state=state, min_slices=2, rules=rules).labels


def test_segs_find_their_series(real_data: Path, tmp_path: Path) -> None:
    """By the series they reference, in a folder that holds several."""
    labels = matched(real_data, "dcmqi", tmp_path, liver="liver.dcm", colours="partial_*.dcm")
    ruled = [label for label in labels if label.label]

    assert [label.finding for label in ruled] == [None, None]
    assert len({label.entry_id for label in ruled}) == 1


def test_masks_find_their_scan_by_geometry(real_data: Path, tmp_path: Path) -> None:
    """Masks on the scan's own grid are matched; the one with another field of view is reported."""
    labels = matched(
        real_data, "totalsegmentator", tmp_path,
        aorta="aorta_report/**/aorta.nii.gz", heart="pulmonary_report/**/heart.nii.gz",
    )  # fmt: skip
    codes = {f.label: f.finding.code if f.finding else "" for f in labels if f.label}

    assert codes == {"aorta": "", "heart": "STR-430"}


def test_show_draws_a_real_scan(real_data: Path, tmp_path: Path) -> None:
    """`data show` writes a picture with coloured labels, and says which file it left out."""
    folder = real_data / "dcmqi"
    catalogue = scan(folder, state=tmp_path, min_slices=2)
    catalogue.save(tmp_path / "catalogue.json")
    case = next(e.id for e in catalogue.entries if e.files[0].parent.name == "ct-3slice")

    result = CliRunner().invoke(
        data, ["show", case, "--png", str(tmp_path / "p.png"), "--state", str(tmp_path)]
    )

    assert result.exit_code == 0, result.output
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png"))).astype(int)
    assert (np.ptp(pixels[..., :3], axis=-1) > 60).sum() > 1000


def test_show_of_an_unknown_id_is_a_coded_refusal(tmp_path: Path) -> None:
    """Somebody mistypes an identifier, or has not scanned yet."""
    Catalogue(tmp_path, ()).save(tmp_path / "catalogue.json")

    result = CliRunner().invoke(
        data, ["show", "0" * 16, "--png", str(tmp_path / "p.png"), "--state", str(tmp_path)]
    )

    assert isinstance(result.exception, DataError)
    assert result.exception.code == "STR-401"
