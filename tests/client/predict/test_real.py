"""Real scans: geometry and refusals only, for nothing here was trained."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from stillroom.client.predict.command import Request, run
from stillroom.client.release import Release
from stillroom.common.errors import StillroomError

DATA = os.environ.get("STILLROOM_TEST_DATA")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="STILLROOM_TEST_DATA names no folder of real scans."
)


def predict(scan: Path, out: Path, release: Release, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Predict ``scan`` with the threshold network."""
    patch.setattr(Release, "load", classmethod(lambda _cls, _folder: release))
    out.mkdir()
    return run(Request(scan, out, out, "cpu", 1, 512), lambda _what, _done, _total: None)


def test_real_cardiac_ct_keeps_its_grid(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label map of a real CT lies on its grid, and bright voxels are where the scan is bright."""
    scan = Path(DATA or "") / "totalsegmentator/aorta_report/test_result/models/ct_cropped.nii.gz"
    about = predict(scan, tmp_path / "out", release, monkeypatch)
    image = sitk.ReadImage(str(scan))
    mask = sitk.ReadImage(str(tmp_path / "out" / "chambers.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, what)(), getattr(image, what)(), atol=1e-3)
    hu, classes = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask)
    assert np.median(hu[classes == 1]) < np.median(hu[classes == 2])
    assert 250 <= np.median(hu[classes == 2]) <= 900
    assert json.dumps(about["input"]["size"]) == json.dumps(list(image.GetSize()))
    assert (tmp_path / "out" / "overlay.png").stat().st_size > 10_000


def test_real_dicom_without_a_heart_is_no_crash(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real series is read to the end and gets a SEG on its own frame of reference."""
    import pydicom

    folder = Path(DATA or "") / "totalsegmentator/example_ct_dicom"
    about = predict(folder, tmp_path / "out", release, monkeypatch)
    assert about["input"]["kind"] == "dicom"
    assert about["input"]["size"] == [512, 512, 20]
    source = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    segmentation = pydicom.dcmread(tmp_path / "out" / "segmentation.dcm")
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    referenced = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == source.SeriesInstanceUID


@pytest.mark.parametrize("folder", ["dicom2nifti-failing", "nema-wg04", "dcmqi"])
def test_folders_of_bad_or_many_series_are_refused(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Every one ends in a code of the data family and words without names."""
    with pytest.raises(StillroomError) as refused:
        predict(Path(DATA or "") / folder, tmp_path / "out", release, monkeypatch)
    assert refused.value.code.startswith("STR-4")
