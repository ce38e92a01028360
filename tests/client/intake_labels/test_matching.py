"""A label finds its scan by what it says or by geometry; when two would do, by nothing at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from stillroom.client.intake.catalogue import Entry, Finding, LabelCandidate, LabelFile
from stillroom.client.intake.geometry import Grid
from stillroom.client.intake.matching import ROI, match_labels
from stillroom.client.intake.rules import LabelRule, RoiRule, Rules, is_match
from stillroom.common.errors import ConfigError
from stillroom.common.study import Study

RULES = Rules(labels={"heart": LabelRule(files="**/*")})


def entry_of(
    image: sitk.Image, file: Path, name: str, uid: str | None = None, **changes: object
) -> Entry:
    fields = {
        "id": name,
        "kind": "dicom" if uid else "nifti",
        "files": (file,),
        "series_uid": uid,
        "frame_of_reference_uid": None,
        "size": image.GetSize(),
        "spacing_mm": image.GetSpacing(),
        "origin_mm": image.GetOrigin(),
        "direction": image.GetDirection(),
    }
    return Entry(**fields | changes)  # type: ignore[arg-type]


def write_mask(path: Path, like: sitk.Image, *, flip: bool = False) -> LabelCandidate:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = sitk.Image(like.GetSize(), sitk.sitkUInt8)
    mask.CopyInformation(like)
    sitk.WriteImage(sitk.Flip(mask, [True, True, False]) if flip else mask, str(path))
    return LabelCandidate(path, "mask")


def only(found: tuple[LabelFile, ...]) -> tuple[str | None, str]:
    assert len(found) == 1
    return found[0].entry_id, found[0].finding.code if found[0].finding else ""


def test_mask_is_matched_by_geometry(tmp_path: Path, make_image: Callable[..., sitk.Image]) -> None:
    """Same place in the patient, whatever it is called and however its axes run."""
    here, there = make_image(), make_image(origin=(0.0, 0.0, 5.0))
    entries = [
        entry_of(here, tmp_path / "a/1.dcm", "here", "1.2"),
        entry_of(there, tmp_path / "b/1.dcm", "there", "1.3"),
    ]

    found = match_labels(
        entries, [write_mask(tmp_path / "x/m.nii.gz", there, flip=True)], RULES, root=tmp_path
    )

    assert only(found) == ("there", "")


def test_mask_on_no_scans_geometry_is_reported(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """Half a millimetre beside is another scan, not a rounding error."""
    scan = make_image()
    label = write_mask(tmp_path / "m.nii.gz", make_image(origin=(-31.0, 12.25, -400.0)))

    found = match_labels([entry_of(scan, tmp_path / "p.nii", "p")], [label], RULES, root=tmp_path)

    assert only(found) == (None, "STR-430")


def test_phases_with_one_geometry_are_told_apart_by_name_or_folder(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """Stem first, then the nearest folder; p1 is not p10; without either it is ambiguous."""
    scan = make_image()
    entries = [
        entry_of(scan, tmp_path / "p1.nii.gz", "p1"),
        entry_of(scan, tmp_path / "p10.nii.gz", "p10"),
        entry_of(scan, tmp_path / "q/ct/1.dcm", "q", "1.2.3"),
        entry_of(scan, tmp_path / "r/ct/1.dcm", "r", "1.2.4"),
    ]
    names = {
        "labels/p1_heart.nii.gz": ("p1", ""),
        "labels/p10.nrrd": ("p10", ""),
        "q/heart.nii.gz": ("q", ""),
        "labels/1.2.4.nii.gz": ("r", ""),
        "labels/somebody.nii.gz": (None, "STR-433"),
        "r/ct_mask.nii.gz": ("r", "STR-433"),  # the second one of r: both are withdrawn
    }
    labels = [write_mask(tmp_path / name, scan) for name in names]

    found = match_labels(entries, labels, RULES, root=tmp_path)

    got = {
        str(item.path.relative_to(tmp_path)): (
            item.entry_id, item.finding.code if item.finding else "",
        )
        for item in found
    }  # fmt: skip
    assert got == names | {"labels/1.2.4.nii.gz": ("r", "STR-433")}


def test_name_and_geometry_must_not_contradict(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """Re-origined copies all look alike: called like one scan and shaped like another is neither."""
    entries = [
        entry_of(make_image(), tmp_path / "p1.nii", "p1"),
        entry_of(make_image(spacing=(1.0, 1.0, 2.0)), tmp_path / "p2.nii", "p2"),
    ]

    found = match_labels(
        entries, [write_mask(tmp_path / "p2_mask.nii", make_image())], RULES, root=tmp_path
    )

    assert only(found) == (None, "STR-432")


def test_label_of_a_quarantined_scan_says_so(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """The reader is sent to the scan's finding rather than told that there is none."""
    why = (Finding("STR-414", "Slices are missing.", "Fetch them."),)
    entry = entry_of(make_image(), tmp_path / "p/1.dcm", "p", "1.2", findings=why)

    found = match_labels(
        [entry], [write_mask(tmp_path / "p/m.nii", make_image())], RULES, root=tmp_path
    )

    assert only(found) == ("p", "STR-430")
    assert "quarantined" in found[0].finding.reason  # type: ignore[union-attr]


def test_rtstruct_by_reference_and_by_frame(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    write_series: Callable[..., object],
    write_rtstruct: Callable[..., Path],
) -> None:
    """The series it names, or none; only one that names no series may use the frame of reference."""
    image = make_image()
    series = write_series(tmp_path / "ct", image)
    square = np.asarray([[2.0, 2, 3], [5, 2, 3], [5, 6, 3], [2, 6, 3]])
    contours = {"heart": [Grid.of(image).to_mm(square)]}
    label = LabelCandidate(write_rtstruct(tmp_path / "rt.dcm", contours, series), "rtstruct")
    uid, frame = series.uid, series.frame_uid  # type: ignore[attr-defined]

    def match(**changes: object) -> tuple[str | None, str]:
        fields = {"series_uid": uid, "frame_of_reference_uid": frame} | changes
        entry = entry_of(image, tmp_path / "ct/1.dcm", "ct", uid, **fields)
        return only(match_labels([entry], [label], RULES, root=tmp_path))

    assert match() == ("ct", "")
    assert match(frame_of_reference_uid="1.9") == ("ct", "STR-432")
    assert match(series_uid="1.9") == (None, "STR-430")


def test_rtstruct_without_reference_needs_its_slices(
    tmp_path: Path,
    make_image: Callable[..., sitk.Image],
    write_series: Callable[..., object],
    write_rtstruct: Callable[..., Path],
) -> None:
    """Two series on one frame of reference: the one whose slices carry the contours, if only one."""
    image, other = make_image(), make_image(origin=(-31.5, 12.25, -399.5))
    series = write_series(tmp_path / "ct", image)
    square = np.asarray([[2.0, 2, 3], [5, 2, 3], [5, 6, 3], [2, 6, 3]])
    path = write_rtstruct(tmp_path / "rt.dcm", {"heart": [Grid.of(image).to_mm(square)]}, series)
    import pydicom

    data = pydicom.dcmread(path)
    del data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    data.save_as(path)
    frame = series.frame_uid  # type: ignore[attr-defined]
    one = entry_of(image, tmp_path / "a/1.dcm", "one", "1.1", frame_of_reference_uid=frame)
    two = entry_of(other, tmp_path / "b/1.dcm", "two", "1.2", frame_of_reference_uid=frame)
    twin = entry_of(image, tmp_path / "c/1.dcm", "twin", "1.3", frame_of_reference_uid=frame)
    label = [LabelCandidate(path, "rtstruct")]

    assert only(match_labels([one, two], label, RULES, root=tmp_path)) == ("one", "")
    assert only(match_labels([two], label, RULES, root=tmp_path)) == (None, "STR-430")
    assert only(match_labels([one, twin], label, RULES, root=tmp_path)) == (None, "STR-433")


def test_csv_gives_one_label_for_each_series(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """By UID or stem; a series that is not here and a point beside its scan are reported."""
    scan = make_image()
    entries = [
        entry_of(scan, tmp_path / "a/1.dcm", "a", "1.2.3"),
        entry_of(scan, tmp_path / "b.nii.gz", "b"),
    ]
    inside = "{},{},{}".format(*scan.TransformIndexToPhysicalPoint((3, 3, 3)))
    (tmp_path / "p.csv").write_text(
        f"series,name,x,y,z\n1.2.3,P,{inside}\nb,P,0,0,0\n7.7,P,{inside}\n", "utf-8"
    )

    found = match_labels(entries, [LabelCandidate(tmp_path / "p.csv", "csv")], RULES, root=tmp_path)

    got = [(item.entry_id, item.finding.code if item.finding else "") for item in found]
    assert got == [("a", ""), ("b", "STR-432"), (None, "STR-430")]


def test_markups_by_folder_and_containment(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """Beside one scan that holds all the points: matched. Two such scans: ambiguous."""
    scan, far = make_image(), make_image(origin=(900.0, 0.0, 0.0))
    x, y, z = scan.TransformIndexToPhysicalPoint((3, 3, 3))
    path = tmp_path / "p/points.mrk.json"
    path.parent.mkdir()
    path.write_text(
        f'{{"markups": [{{"controlPoints": [{{"label": "P", "position": [{x}, {y}, {z}]}}]}}]}}'
    )
    near = entry_of(scan, tmp_path / "p/ct/1.dcm", "near", "1.1")
    beside = entry_of(far, tmp_path / "p/scout/1.dcm", "beside", "1.2")
    twin = entry_of(scan, tmp_path / "p/ct2/1.dcm", "twin", "1.3")
    away = entry_of(scan, tmp_path / "q/ct/1.dcm", "away", "1.4")
    label = [LabelCandidate(path, "markups")]

    assert only(match_labels([near, beside, away], label, RULES, root=tmp_path)) == ("near", "")
    assert only(match_labels([near, twin], label, RULES, root=tmp_path)) == (None, "STR-433")
    assert only(match_labels([beside], label, RULES, root=tmp_path)) == (None, "STR-430")


def test_file_without_a_rule_is_reported_and_roi_is_kept_apart(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """Nothing that looks like a label is passed over in silence."""
    scan = make_image()
    rules = Rules(roi=RoiRule(mask="roi/*.nii"))
    labels = [write_mask(tmp_path / "roi/a.nii", scan), write_mask(tmp_path / "b.nii", scan)]

    found = match_labels(
        [entry_of(scan, tmp_path / "ct/1.dcm", "ct", "1.2")], labels, rules, root=tmp_path
    )

    assert [(item.label, item.finding is None) for item in found] == [(ROI, True), ("", False)]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [("a/b/*.nii", True), ("**/*.nii", True), ("**/b/**", True), ("*.nii", False), ("a/*", False),
     ("./a/b/m.nii", True), ("**", True), ("a/**/b/m.nii", True), ("A/b/m.nii", False)],
)  # fmt: skip
def test_patterns(tmp_path: Path, pattern: str, fits: bool) -> None:
    """A star stays within a folder, two stars cross any number of them."""
    assert is_match(tmp_path / "a/b/m.nii", tmp_path, pattern) is fits
    assert not is_match(tmp_path.parent / "m.nii", tmp_path, pattern)


def test_rule_about_an_unknown_class_is_refused() -> None:
    """A misspelt class would otherwise leave a hole in every mask."""
    study = Study.parse(
        {
            "study": {"name": "abc"},
            "volume": {"spacing_mm": [1, 1, 1], "patch": [8, 8, 8]},
            "label": {"heart": {"kind": "mask", "classes": ["LV"]}},
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "s", "recipe": "distil"}],
        }
    )

    with pytest.raises(ConfigError, match="RV"):
        Rules(labels={"heart": LabelRule(files="*", classes={"RV": 1})}).check_against(study)
    with pytest.raises(ConfigError, match=r"labels\.liver"):
        Rules(labels={"liver": LabelRule(files="*")}).check_against(study)


def test_unreadable_label_is_one_finding(tmp_path: Path) -> None:
    """A damaged file among the labels does not stop the others."""
    (tmp_path / "m.nii").write_bytes(b"no")

    found = match_labels([], [LabelCandidate(tmp_path / "m.nii", "mask")], RULES, root=tmp_path)

    assert only(found) == (None, "STR-431")
    assert isinstance(found[0].finding, Finding)
