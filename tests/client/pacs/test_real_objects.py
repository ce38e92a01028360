"""Objects that nobody here made, through de-identification: intake and labels must not notice."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from stillroom.client.intake.catalogue import Entry, LabelFile
from stillroom.client.intake.index import scan
from stillroom.client.intake.labels import read_mask
from stillroom.client.intake.rules import LabelRule, Rules
from stillroom.client.intake.volume import load_volume
from stillroom.client.pacs import wishes
from stillroom.client.pacs.deidentify import Deidentifier
from stillroom.client.pacs.journal import opened
from stillroom.client.pacs.opening import open_archive
from stillroom.client.pacs.pull import Pull
from stillroom.common.errors import DataError
from stillroom.common.study import MaskLabel


@pytest.fixture
def real_data() -> Path:
    """The folder of real CT; its tests are skipped where there is none."""
    folder = os.environ.get("STILLROOM_TEST_DATA")
    if not folder:
        pytest.skip("STILLROOM_TEST_DATA does not name a folder of real CT.")
    return Path(folder)


def strip(source: Path, target: Path, deidentifier: Deidentifier) -> int:
    """Every object below ``source`` that is kept, de-identified below ``target`` under the same path."""
    count = 0
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                kept = deidentifier.apply(pydicom.dcmread(path))
            except (DataError, pydicom.errors.InvalidDicomError):
                continue
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            pydicom.dcmwrite(to, kept, enforce_file_format=True)
        count += 1
    return count


def voxels(entry: Entry) -> np.ndarray:
    return sitk.GetArrayFromImage(load_volume(entry))


@pytest.mark.parametrize("folder", ["dcmqi", "rt-utils", "dicom2nifti-failing"])
def test_intake_comes_to_the_same_verdicts(real_data: Path, tmp_path: Path, folder: str) -> None:
    """Same series, sizes, places, findings and voxels, good ones and bad ones, before and after."""
    assert strip(real_data / folder, tmp_path / "kept", Deidentifier.make(b"k" * 32)) > 3

    before = scan(real_data / folder, state=tmp_path / "a", min_slices=2)
    after = scan(tmp_path / "kept", state=tmp_path / "b", min_slices=2)

    was = {e.files[0].relative_to(before.root): e for e in before.entries}
    compared = 0
    for entry in after.entries:
        old = was[entry.files[0].relative_to(after.root)]
        assert entry.findings == old.findings
        assert (entry.size, entry.spacing_mm) == (old.size, old.spacing_mm)
        assert (entry.origin_mm, entry.direction) == (old.origin_mm, old.direction)
        if entry.accepted:
            np.testing.assert_array_equal(voxels(entry), voxels(old))
        compared += 1
    assert compared > 0


RULES = Rules(
    labels={
        "liver": LabelRule(files="**/seg-*/*.dcm", classes={"liver": "liver"}),
        "roi": LabelRule(files="**/rtstruct-*/*.dcm", classes={"roi": "roi-1"}),
    }
)
CLASSES = {name: MaskLabel(kind="mask", classes=(name,)) for name in ("liver", "roi")}


def read(label: LabelFile, entry: Entry) -> np.ndarray:
    rule = RULES.labels[label.label]
    return read_mask(label.path, CLASSES[label.label], rule.classes, load_volume(entry))


def on_the_frame_of(ct: pydicom.Dataset, data: pydicom.Dataset) -> pydicom.Dataset:
    """The public structure set names a frame of reference that its CT does not have."""
    for reference in data.get("ReferencedFrameOfReferenceSequence", ()):
        reference.FrameOfReferenceUID = ct.FrameOfReferenceUID
    return data


@pytest.mark.filterwarnings("ignore:Invalid value")  # of the public files
@pytest.mark.parametrize("way", ["web", "dimse"])
@pytest.mark.parametrize(
    ("folder", "names", "label", "expected"),
    [
        ("dcmqi", ["ct-3slice/*.dcm", "liver.dcm"], "liver", 107098),
        ("rt-utils/mock_data", ["ct_*.dcm", "rt.dcm"], "roi", 1443),
    ],
)
def test_labels_are_pulled_and_find_their_scan(
    orthanc: Any,
    real_data: Path,
    tmp_path: Path,
    way: str,
    folder: str,
    names: list[str],
    label: str,
    expected: int,
) -> None:
    """SEG and RTSTRUCT come with their series, match by replaced UIDs, and hold the same voxels."""
    files = [file for name in names for file in (real_data / folder).glob(name)]
    first = pydicom.dcmread(files[0])
    for file in files:
        orthanc.put(on_the_frame_of(first, pydicom.dcmread(file)))
    pacs = getattr(orthanc, way)(tmp_path, labels=True, structures=["liver", "ROI-1"])
    asked = wishes.of_uids([str(first.StudyInstanceUID)])
    with opened(pacs.state) as (journal, key):
        archive = open_archive(pacs)
        summary = Pull(archive, pacs, journal, key).run(asked)
        archive.close()

    assert summary.ended is None
    assert {one.state for one in summary.outcomes} == {"complete"}
    found = scan(pacs.folder, state=tmp_path / "state", min_slices=2, rules=RULES)
    (matched,) = (one for one in found.labels if one.label == label)
    assert matched.finding is None, matched
    assert matched.entry_id is not None
    mask = read(matched, found.entry(matched.entry_id))
    assert int((mask > 0).sum()) == pytest.approx(expected, abs=20)
    codes = [i.CodeValue for i in pydicom.dcmread(matched.path).DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105"]


def test_names_of_structures_are_kept_only_where_the_site_asks(real_data: Path) -> None:
    """Unknown names become numbers; the site's own stay, whatever their capitals."""
    path = real_data / "dcmqi/partial_overlaps.dcm"
    kept = Deidentifier.make(b"k" * 32, ["green"]).apply(pydicom.dcmread(path))

    names = [str(item.SegmentLabel) for item in kept.SegmentSequence]
    assert names[0].lower() == "green"
    assert names[1:] == [f"structure-{n}" for n in range(2, len(names) + 1)]
