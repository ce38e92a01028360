"""Real CT, good and bad: the verdict on each folder, and exact voxels."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.index import scan
from stillroom.client.intake.volume import load_volume
from stillroom.common.errors import DataError

FAILING = "dicom2nifti-failing/failing"
WG04 = "nema-wg04/data/WG04"


def look(folder: Path, state: Path, min_slices: int = 1) -> Catalogue:
    return scan(folder, state=state, min_slices=min_slices)


def verdicts(catalogue: Catalogue) -> list[list[str]]:
    return [[finding.code for finding in entry.findings] for entry in catalogue.entries]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (f"{FAILING}/gantrytilting", [["STR-413"]]),
        (f"{FAILING}/notavolume", [["STR-415"]]),
        (f"{FAILING}/slicecount/001", [["STR-411"]]),
        (f"{FAILING}/sliceorientation", [["STR-411"]]),
        (f"{FAILING}/sliceincrement/001", [["STR-414"]]),
        (f"{FAILING}/sliceincrement/002", [["STR-413", "STR-414"]]),
        ("rt-utils/mock_data", [[]]),
        ("rt-utils/oriented_data", [[]]),
        ("dcmqi/ct-3slice", [[]]),
        ("dcmqi/23x38x3/image", [[]]),
        ("dcmqi/23x38x3/multiframe", [[]]),
        ("dcmqi/24x38x3/multiframe", [[]]),
        ("totalsegmentator/example_ct_dicom", [[]]),
    ],
)
def test_verdict(real_data: Path, tmp_path: Path, folder: str, expected: list[list[str]]) -> None:
    """Each folder is accepted or refused for its own reason."""
    assert verdicts(look(real_data / folder, tmp_path)) == expected


def test_damaged_files(real_data: Path, tmp_path: Path) -> None:
    """Headerless, truncated and functional-map files are each told apart; none stops the scan."""
    found = look(real_data / "nema-wg04/data/pydicom", tmp_path)
    by_name = {
        entry.files[0].name: [finding.code for finding in entry.findings] for entry in found.entries
    }
    assert by_name == {
        "CT_small.dcm": [],
        "MR_truncated.dcm": ["STR-411"],
        "badVR.dcm": ["STR-411"],
        "bad_sequence.dcm": [],
        "eCT_Supplemental.dcm": ["STR-423"],
        "meta_missing_tsyntax.dcm": ["STR-410"],
        "no_meta.dcm": ["STR-410"],
        "no_meta_group_length.dcm": ["STR-410"],
        "rtplan_truncated.dcm": ["STR-411"],
    }


def test_labels_are_not_images(real_data: Path, tmp_path: Path) -> None:
    """SEG, RTSTRUCT, markups and label maps are listed as labels, images as images."""
    structures = look(real_data / "rt-utils", tmp_path)
    assert {candidate.format for candidate in structures.candidates} == {"rtstruct"}
    assert len(structures.candidates) == 4
    segments = look(real_data / "highdicom", tmp_path)
    assert [candidate.format for candidate in segments.candidates] == ["seg"] * 5
    report = look(real_data / "totalsegmentator/aorta_report", tmp_path)
    assert [entry.files[0].name for entry in report.entries] == ["ct_cropped.nii.gz"]
    assert {candidate.format for candidate in report.candidates} == {"mask", "markups"}
    assert len(report.candidates) == 21


@pytest.mark.parametrize(
    ("syntax", "worst", "mean"),
    [
        ("J2KR", 0, 0),
        ("JLSL", 0, 0),
        ("JPLL", 0, 0),
        ("RLE", 0, 0),
        ("JLSN", 4, 4),
        ("J2KI", 500, 40),
    ],
)
def test_transfer_syntaxes(
    real_data: Path, tmp_path: Path, syntax: str, worst: int, mean: int
) -> None:
    """Lossless is bit-equal to the uncompressed reference; lossy is as near as its coder says."""
    reference = {e.files[0].name[:3]: e for e in look(real_data / WG04 / "REF", tmp_path).accepted}
    entries = look(real_data / WG04 / syntax, tmp_path).accepted
    assert len(entries) == 2
    for entry in entries:
        values = sitk.GetArrayFromImage(load_volume(entry)).astype(np.float64)
        exact = sitk.GetArrayFromImage(load_volume(reference[entry.files[0].name[:3]]))
        gap = np.abs(values - exact)
        assert gap.max() <= worst
        assert gap.mean() <= mean


@pytest.mark.parametrize("syntax", ["J2KR", "J2KI", "JLSL", "JLSN", "JPLL", "RLE"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_cut_code_streams(real_data: Path, tmp_path: Path, syntax: str, share: float) -> None:
    """A compressed slice that lost its end is refused, not filled with zeros."""
    source = next(iter(sorted((real_data / WG04 / syntax).iterdir())))
    raw = source.read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "slice").write_bytes(raw[: int(len(raw) * share)])
    assert verdicts(look(folder, tmp_path / "state")) == [["STR-418"]]


def test_a_code_stream_shorter_inside_whole_items(real_data: Path, tmp_path: Path) -> None:
    """A re-encapsulated half of a code stream is refused although all lengths add up."""
    for syntax in ("J2KR", "JLSL", "JPLL"):
        data = pydicom.dcmread(next(iter(sorted((real_data / WG04 / syntax).iterdir()))))
        stream = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
        data.PixelData = pydicom.encaps.encapsulate([stream[: len(stream) // 4 * 2]])
        folder = tmp_path / syntax
        folder.mkdir()
        data.save_as(folder / "slice")
        assert verdicts(look(folder, tmp_path / "state")) == [["STR-418"]]


def test_multi_frame_equals_single_frames(real_data: Path, tmp_path: Path) -> None:
    """The enhanced copy of a series holds the same voxels at the same places."""
    folder = real_data / "dcmqi/24x38x3"
    (single,) = look(folder / "image", tmp_path).accepted
    (multi,) = look(folder / "multiframe", tmp_path).accepted
    a, b = load_volume(single), load_volume(multi)
    assert multi.kind == "dicom-multiframe"
    assert (a.GetSize(), a.GetDirection()) == (b.GetSize(), b.GetDirection())
    assert a.GetOrigin() == pytest.approx(b.GetOrigin(), abs=1e-3)
    assert a.GetSpacing() == pytest.approx(b.GetSpacing(), abs=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(a), sitk.GetArrayViewFromImage(b))


def test_frames_are_ordered_and_rescaled_one_by_one(real_data: Path, tmp_path: Path) -> None:
    """Frames stored out of order, each with a rescale of its own, come out right."""
    data: Any = pydicom.dcmread(real_data / "dcmqi/24x38x3/multiframe/mf.dcm")
    frames = data.pixel_array
    groups = data.PerFrameFunctionalGroupsSequence
    for shared in data.SharedFunctionalGroupsSequence:
        if "PixelValueTransformationSequence" in shared:
            del shared.PixelValueTransformationSequence
    for number, group in enumerate(groups):
        rescale = pydicom.Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = number + 1, -1000 * number
        rescale.RescaleType = "HU"
        group.PixelValueTransformationSequence = [rescale]
    positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in groups]
    for group, position in zip(groups, [positions[i] for i in (2, 0, 1)], strict=True):
        group.PlanePositionSequence[0].ImagePositionPatient = position
    folder = tmp_path / "frames"
    folder.mkdir()
    data.save_as(folder / "mf")
    (entry,) = look(folder, tmp_path / "state").accepted
    values = sitk.GetArrayFromImage(load_volume(entry))
    for place, frame in enumerate((1, 2, 0)):
        expected = frames[frame] * (frame + 1.0) - 1000 * frame
        np.testing.assert_array_equal(values[place], expected)


def test_nifti_and_dicom_of_totalsegmentator(real_data: Path, tmp_path: Path) -> None:
    """JPEG 2000 DICOM and NIfTI load as int16 on the grid that ITK itself reads."""
    (series,) = look(real_data / "totalsegmentator/example_ct_dicom", tmp_path, 16).accepted
    image = load_volume(series)
    names = [str(path) for path in series.files]
    plain = sitk.ReadImage(names)
    np.testing.assert_array_equal(
        sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(plain)
    )
    assert image.GetSpacing() == pytest.approx(plain.GetSpacing(), abs=1e-3)
    assert image.GetOrigin() == pytest.approx(plain.GetOrigin(), abs=1e-3)
    for entry in look(real_data / "totalsegmentator/pulmonary_report", tmp_path).accepted:
        loaded = load_volume(entry)
        assert loaded.GetPixelID() == sitk.sitkInt16
        assert loaded.GetSpacing() == entry.spacing_mm
        assert loaded.GetDirection() == entry.direction


def test_a_quarantined_series_is_refused_at_loading(real_data: Path, tmp_path: Path) -> None:
    """Nobody gets voxels of a tilted series by loading it directly."""
    (entry,) = look(real_data / FAILING / "gantrytilting", tmp_path).entries
    with pytest.raises(DataError, match="STR-413"):
        load_volume(entry)
