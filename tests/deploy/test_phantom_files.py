"""What the phantom writes, read back by the libraries that hospitals' software is made of."""

import csv
import json
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless
from typer.testing import CliRunner

from stillroom.client.intake.rules import Rules, is_match
from stillroom.deploy.phantom.__main__ import app
from stillroom.deploy.phantom.anatomy import POINTS
from stillroom.deploy.phantom.annotations import (
    burden_of,
    write_markups,
    write_mask,
    write_seg,
    write_table,
)
from stillroom.deploy.phantom.consortium import SiteSpec, default_sites, make_consortium
from stillroom.deploy.phantom.dicom import draw_ids, write_series
from stillroom.deploy.phantom.painting import VESSELS, Case, make_case
from stillroom.deploy.phantom.scanner import SCANNERS

TYPE_1 = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept",
    "RescaleSlope", "PixelData",
)  # fmt: skip
"""Type 1 in the modules of the CT Image IOD (PS3.3 table A.3-1)."""


def small(scanner: str, seed: int = 3) -> Case:
    """A case coarse enough to be quick."""
    return make_case(seed, scanner, size=28, spacing_mm=6.5, offset_mm=5)


def read_series(folder: Path) -> Any:
    """The series as SimpleITK sees it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_same_place(image: Any, case: Case) -> None:
    """Origin, spacing and direction agree to 1e-3 mm."""
    np.testing.assert_allclose(image.GetOrigin(), case.origin_mm, atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), case.spacing_mm, atol=1e-3)
    np.testing.assert_allclose(image.GetDirection(), case.direction.ravel(), atol=1e-5)


@pytest.mark.parametrize("scanner", list(SCANNERS))
def test_series_reads_back_exactly(scanner: str, tmp_path: Path) -> None:
    """Geometry to 1e-3 mm and every Hounsfield unit survive each site's transfer syntax."""
    case = small(scanner)
    ids = draw_ids(scanner, "X0001", 3)

    files = write_series(case, tmp_path, ids, SCANNERS[scanner])

    image = read_series(tmp_path)
    assert np.array_equal(sitk.GetArrayFromImage(image), case.hu)
    assert_same_place(image, case)
    header = pydicom.dcmread(files[0])
    assert all(header[name].value not in (None, "", []) for name in TYPE_1)
    assert header.PatientName == "PHANTOM^X0001"
    assert header.Manufacturer == SCANNERS[scanner].manufacturer
    assert (header.file_meta.TransferSyntaxUID == RLELossless) == (scanner == "harbour")


def test_series_is_deterministic(tmp_path: Path) -> None:
    """Two runs write the same files to the last byte."""
    for run in ("a", "b"):
        write_series(small("river"), tmp_path / run, draw_ids("river", "R1", 3), SCANNERS["river"])

    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_label_map_reads_back(suffix: str, tmp_path: Path) -> None:
    """NIfTI and NRRD carry the same voxels at the same place as the oblique scan."""
    case = small("river")

    write_mask(case, case.chambers, tmp_path / f"chambers{suffix}")

    image = sitk.ReadImage(str(tmp_path / f"chambers{suffix}"))
    assert np.array_equal(sitk.GetArrayFromImage(image), case.chambers)
    assert_same_place(image, case)


def test_segmentation_reads_back(tmp_path: Path) -> None:
    """The DICOM SEG names its segments, refers to its series and holds the same voxels."""
    case, ids = small("river"), draw_ids("river", "R1", 3)
    files = write_series(case, tmp_path / "ct", ids, SCANNERS["river"])

    for name in ("a.dcm", "b.dcm"):
        write_seg(case.vessels, VESSELS, files, tmp_path / name)

    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    seg = highdicom.seg.segread(tmp_path / "a.dcm")
    assert [seg.get_segment_description(k).segment_label for k in (1, 2)] == ["AO", "PA"]
    uids = [str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in files]
    mask = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(mask, case.vessels)
    assert str(seg.FrameOfReferenceUID) == ids.frame


def test_points_read_back(tmp_path: Path) -> None:
    """Markups and table hold the same millimetres; a point out of view is there but undefined."""
    case, ids = small("harbour"), draw_ids("harbour", "H1", 3)
    seen = {name: mm for name, mm in case.points.items() if name != "MS"}

    write_markups(seen, tmp_path / "p.json")
    write_table([(ids.series, seen)], tmp_path / "p.csv")

    markup = json.loads((tmp_path / "p.json").read_text("utf-8"))["markups"][0]
    assert markup["coordinateSystem"] == "LPS"
    found = {p["label"]: p for p in markup["controlPoints"]}
    with (tmp_path / "p.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert set(found) == set(rows) == set(POINTS)
    for name, mm in seen.items():
        np.testing.assert_allclose(found[name]["position"], mm)
        np.testing.assert_allclose([float(rows[name][k]) for k in "xyz"], mm, atol=1e-6)
        assert rows[name]["series"] == ids.series
    assert found["MS"]["positionStatus"] == "undefined"
    assert rows["MS"]["x"] == ""


def test_consortium_on_disk(tmp_path: Path) -> None:
    """Every site gets its patients, labels where its rules point, and its own looks."""
    heard: list[tuple[int, int]] = []
    specs = default_sites(labelled=2, unlabelled=1, held_out=1)

    sites = make_consortium(
        tmp_path, sites=specs, seed=1, size=20, spacing_mm=9.0, workers=1,
        progress=lambda done, total: heard.append((done, total)),
    )  # fmt: skip

    assert heard == [(k, 10) for k in range(1, 11)]
    assert [site.name for site in sites] == ["north", "river", "harbour", "summit"]
    for spec, site in zip(specs, sites, strict=True):
        assert set(site.labels) == set(spec.labels)
        rules = Rules.model_validate({"labels": site.labels})
        for rule in rules.labels.values():
            files = list(site.folder.glob(rule.files))
            assert files
            assert all(is_match(file, site.folder, rule.files) for file in files)
        for patient in site.labelled:
            assert (site.folder / "labelled" / patient / "ct" / "IM0001.dcm").is_file()
        for patient in site.unlabelled:
            assert [p.name for p in (site.folder / "unlabelled" / patient).iterdir()] == ["ct"]
    harbour = sites[2]
    assert len(list(harbour.folder.glob(harbour.labels["landmarks"]["files"]))) == 2
    with (harbour.folder / "labelled" / "landmarks.csv").open(newline="") as stream:
        series = {row["series"] for row in csv.DictReader(stream)}
    second = pydicom.dcmread(harbour.folder / "labelled" / "H0002" / "ct" / "IM0001.dcm")
    assert series == {str(second.SeriesInstanceUID)}
    assert sites[0].labels["chambers"]["classes"] == {"LV": 1, "RV": 2, "LA": 3, "RA": 4, "MYO": 5}
    assert sites[1].labels["vessels"]["classes"] == {"AO": "AO", "PA": "PA"}


def test_workers_write_the_same_files(tmp_path: Path) -> None:
    """Two processes and one write the same bytes."""
    spec = SiteSpec("north", "north", {"heart": "nifti", "landmarks": "table"}, 1, 1)
    for workers in (1, 2):
        make_consortium(
            tmp_path / str(workers), sites=[spec], size=16, spacing_mm=11.0, workers=workers
        )

    one = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    assert len(one) == 2 * 16 + 2
    for file in one:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


@pytest.mark.parametrize(
    ("label", "kind"), [("landmarks", "nifti"), ("burden", "nifti"), ("heart", "classes")]
)
def test_a_label_kept_in_the_wrong_format_is_refused(label: str, kind: Any) -> None:
    """Points and classes cannot be a label map: the specification says so at once."""
    with pytest.raises(ValueError, match=label):
        SiteSpec("north", "north", {label: kind})


def test_the_burden_is_a_line_for_each_labelled_scan(tmp_path: Path) -> None:
    """The class of a scan is that of the calcium painted into it; the site's rules find the table."""
    spec = SiteSpec("north", "north", {"burden": "classes"}, labelled=3, unlabelled=1)

    site = make_consortium(tmp_path, sites=[spec], size=28, spacing_mm=6.5, workers=1)[0]

    with (site.folder / site.labels["burden"]["files"]).open(newline="") as stream:
        said = {row["series"]: row["class"] for row in csv.DictReader(stream)}
    for number, patient in enumerate(site.labelled):
        scan = site.folder / "labelled" / patient / "ct" / "IM0001.dcm"
        series = str(pydicom.dcmread(scan, stop_before_pixels=True).SeriesInstanceUID)
        case = make_case(number, "north", size=28, spacing_mm=6.5)
        assert said.pop(series) == burden_of(case)
    assert not said
    assert site.labels["burden"]["classes"] == {"light": "light", "heavy": "heavy"}


def test_command_line(tmp_path: Path) -> None:
    """A data scientist gets cases and a contact sheet from one command."""
    out = tmp_path / "cases"

    result = CliRunner().invoke(app, [str(out), "--cases", "2", "--size", "20", "--png"])

    assert result.exit_code == 0, result.output
    assert {p.name for p in (out / "A0001").iterdir()} >= {"ct", "chambers.nii.gz"}
    assert (out / "sheet.png").stat().st_size > 1000
    assert len((out / "burden.csv").read_text("utf-8").splitlines()) == 3
