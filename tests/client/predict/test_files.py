"""What a prediction writes: readable by others, on the scan's grid, and named by the study alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from stillroom.client.cli import app
from stillroom.client.predict.command import Request, run
from stillroom.client.predict.dicom_seg import codes_of
from stillroom.client.release import Release
from stillroom.common.errors import StillroomError, TrustError
from stillroom.common.nn.release import build_release
from stillroom.common.nn.student import build_student
from stillroom.common.nn.weights import export, initial, manifest_of
from stillroom.common.study import PreparedStage, PreparedStudy, Study

IDENTITY = "Doe^Jane"


@pytest.fixture
def released(release: Release, monkeypatch: pytest.MonkeyPatch) -> Release:
    """``Release.load`` gives the release of ``Threshold``, whatever the folder."""
    monkeypatch.setattr(Release, "load", classmethod(lambda _cls, _folder: release))
    return release


@pytest.fixture
def predicted(released: Release, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Predict ``scan`` into a new folder."""

    def predict(scan: Path) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / "out"
        out.mkdir()
        request = Request(scan, tmp_path, out, "cpu", 0, 256)
        return out, run(request, lambda _what, _done, _total: None)

    return predict


def write_series(image: sitk.Image, folder: Path) -> None:
    """``image`` as a CT series with a patient's name, its slices in shuffled file names."""
    folder.mkdir()
    array = sitk.GetArrayFromImage(image)
    cosines = np.asarray(image.GetDirection()).reshape(3, 3)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    names = np.random.default_rng(0).permutation(len(array))
    for k, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.PatientName, data.PatientID = IDENTITY, "MRN-77"
        data.PatientBirthDate, data.PatientSex = "19500101", "F"
        data.StudyDate, data.StudyTime, data.AccessionNumber = "20260101", "101010", ""
        data.ReferringPhysicianName, data.StudyID = "", "1"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
        data.SeriesNumber, data.InstanceNumber = 1, k + 1
        data.Manufacturer, data.KVP = "none", "120"
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        data.ImagePositionPatient = [f"{v:.10g}" for v in position]
        data.ImageOrientationPatient = [f"{v:.10g}" for v in (*cosines[:, 0], *cosines[:, 1])]
        x, y, z = image.GetSpacing()
        data.PixelSpacing, data.SliceThickness = [y, x], z
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (plane.astype(np.int32) + 1024).astype(np.int16).tobytes()
        data.save_as(folder / f"im{names[k]}", enforce_file_format=True)


def assert_same_grid(a: sitk.Image, b: sitk.Image) -> None:
    """Size, spacing, origin and direction agree to what a NIfTI header can hold."""
    assert a.GetSize() == b.GetSize()
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(a, what)(), getattr(b, what)(), atol=1e-4)


def test_nifti_in_nifti_out(
    ball_scan: Callable[..., sitk.Image],
    predicted: Callable[..., tuple[Path, dict[str, Any]]],
    tmp_path: Path,
) -> None:
    """An oblique, anisotropic NIfTI gets its label map on its own grid, markups and a description."""
    c, s = np.cos(0.3), np.sin(0.3)
    image = ball_scan((70, 60, 40), (1.3, 1.3, 2.2), (c, -s, 0, s, c, 0, 0, 0, 1))
    (tmp_path / "patient-4711").mkdir()
    scan = tmp_path / "patient-4711" / "scan.nii.gz"
    sitk.WriteImage(image, str(scan))
    out, about = predicted(scan)
    assert {p.name for p in out.iterdir()} == {
        "chambers.nii.gz",
        "landmarks.mrk.json",
        "overlay.png",
        "prediction.json",
    }
    assert about == json.loads((out / "prediction.json").read_text("utf-8"))
    assert about["labels"] == {
        "chambers": {"file": "chambers.nii.gz", "classes": {"LV": 1, "RV": 2}}
    }
    assert about["points"]["landmarks"]["B"] is None
    assert about["points"]["landmarks"]["A"] == pytest.approx([5, -7, 11], abs=1.2)
    assert about["dicom_seg"] is None
    assert "4711" not in json.dumps(about)
    assert_same_grid(sitk.ReadImage(str(out / "chambers.nii.gz")), sitk.ReadImage(str(scan)))
    markup = json.loads((out / "landmarks.mrk.json").read_text("utf-8"))["markups"][0]
    assert markup["coordinateSystem"] == "LPS"
    a, b = markup["controlPoints"]
    assert a["label"] == "A"
    assert a["position"] == pytest.approx([5, -7, 11], abs=1.2)
    assert b["positionStatus"] == "undefined"


@pytest.mark.parametrize("flip", [1, -1])
def test_dicom_in_segmentation_out(
    ball_scan: Callable[..., sitk.Image],
    predicted: Callable[..., tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    flip: int,
) -> None:
    """A DICOM series gets a SEG that refers to it and holds the label map, voxel by voxel."""
    image = ball_scan((48, 44, 40), direction=(flip, 0, 0, 0, flip, 0, 0, 0, 1))
    write_series(image, tmp_path / "series")
    out, about = predicted(tmp_path / "series")
    assert about["dicom_seg"] == "segmentation.dcm"
    assert not any("Doe" in p.name or "MRN" in p.name for p in out.iterdir())
    assert IDENTITY.split("^", maxsplit=1)[0] not in json.dumps(about)
    mask = sitk.ReadImage(str(out / "chambers.nii.gz"))
    assert_same_grid(mask, image)
    segmentation = hd.seg.segread(out / "segmentation.dcm")
    assert segmentation.number_of_segments == 2
    first = segmentation.get_segment_description(1)
    assert first.segment_label == "chambers: LV"
    assert first.segmented_property_type.value == "87878005"
    sources = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "series").iterdir()}
    assert {uid for _, _, uid in segmentation.get_source_image_uids()} <= sources
    volume = segmentation.get_volume(combine_segments=True)
    # highdicom's affine goes from (slice, row, column) to LPS; every marked voxel must agree.
    index = np.argwhere(volume.array)
    positions = volume.map_indices_to_reference(index)
    expected = sitk.GetArrayFromImage(mask)
    assert len(index) == np.count_nonzero(expected)
    for value, position in list(zip(volume.array[tuple(index.T)], positions, strict=True))[::997]:
        i, j, k = mask.TransformPhysicalPointToIndex([float(v) for v in position])
        assert expected[k, j, i] == value


def test_unknown_classes_get_a_private_code() -> None:
    """A class without a SNOMED code is still named, under a private scheme."""
    assert codes_of("RA")[1].value == "73829009"
    assert codes_of("pulmonary_artery")[1].value == "81040000"
    kind = codes_of("appendage")[1]
    assert (kind.scheme_designator, kind.meaning) == ("99STILLROOM", "appendage")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("absent.nii.gz", "STR-410"),
        ("flat.nii.gz", "STR-420"),
        ("mask.nii.gz", "STR-419"),
        ("empty", "STR-410"),
    ],
)
def test_unusable_input_is_refused_by_code(
    predicted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path, name: str, code: str
) -> None:
    """What ``data scan`` would quarantine is refused with the same code."""
    (tmp_path / "empty").mkdir()
    flat = np.full((2, 40, 40), -1000, np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / "flat.nii.gz"))
    labels = np.zeros((40, 40, 40), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "mask.nii.gz"))
    with pytest.raises(StillroomError) as refused:
        predicted(tmp_path / name)
    assert refused.value.code == code


@pytest.fixture(scope="module")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real release of an untrained light student, with its bundle."""
    study = Study.parse(
        {
            "study": {"name": "tiny-release"},
            "volume": {
                "spacing_mm": [3, 3, 3],
                "patch": [16, 16, 16],
                "hu_window": [-200, 600],
                "min_slices": 4,
            },
            "label": {
                "chambers": {"kind": "mask", "classes": ["LV", "RV"]},
                "landmarks": {"kind": "points", "names": ["A"]},
            },
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "student", "recipe": "distil"}],
        }
    )
    student = initial(lambda: build_student(study), 3)
    stage = PreparedStage(initial_sha256="a" * 64, manifest=manifest_of(student))
    folder = tmp_path_factory.mktemp("release") / "release"
    prepared = PreparedStudy(study=study, stages={"student": stage})
    build_release(prepared, export(student), folder, run={})
    return folder


def test_command_line(
    ball_scan: Callable[..., sitk.Image], tiny_release: Path, tmp_path: Path
) -> None:
    """The command writes everything, keeps names out of its words, and refuses a full folder."""
    scan = tmp_path / "mueller.nrrd"
    sitk.WriteImage(ball_scan((40, 36, 30), (2.2, 2.0, 2.5)), str(scan))
    arguments = ["predict", str(scan), "--release", str(tiny_release), "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "mueller" not in result.output
    assert "not a medical device" in result.output
    about = json.loads((tmp_path / "o" / "prediction.json").read_text("utf-8"))
    assert about["release"]["study"] == "tiny-release"
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, StillroomError)
    assert again.exception.code == "STR-107"


def test_a_failed_prediction_leaves_no_folder(tiny_release: Path, tmp_path: Path) -> None:
    """After a refusal the same command can be given again."""
    arguments = ["predict", str(tmp_path / "no.nii"), "--release", str(tiny_release)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "o")])
    assert isinstance(result.exception, StillroomError)
    assert result.exception.code == "STR-410"
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "study.json", "release.json"])
def test_a_changed_release_is_refused(tiny_release: Path, tmp_path: Path, file: str) -> None:
    """One changed byte in weights, study or description ends the command before the scan is read."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.safetensors", "study.json", "release.json"):
        (copy / name).write_bytes((tiny_release / name).read_bytes())
    assert Release.load(copy).study.study.name == "tiny-release"
    data = bytearray((copy / file).read_bytes())
    place = data.find(b"chambers") if file == "study.json" else len(data) - 3
    data[place] ^= 1
    (copy / file).write_bytes(bytes(data))
    with pytest.raises(TrustError) as refused:
        Release.load(copy)
    assert refused.value.code == "STR-204"


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_the_bundle_runs_and_agrees(
    ball_scan: Callable[..., sitk.Image], tiny_release: Path, options: Any, tmp_path: Path
) -> None:
    """``monai.bundle`` reads a NIfTI with the release's bundle and marks what ``predict`` marks."""
    from monai.bundle import ConfigWorkflow

    from stillroom.client.predict.segmentation import segment

    image = ball_scan((30, 26, 34), (3, 3, 3), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    scan = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(scan))
    bundle = tiny_release / "bundle"
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
        image=str(scan),
        output_dir=str(tmp_path / "eval"),
    )
    workflow.initialize()
    workflow.run()
    theirs = sitk.ReadImage(str(tmp_path / "eval" / "chambers.nii.gz"))
    assert_same_grid(theirs, sitk.ReadImage(str(scan)))
    ours = segment(image, Release.load(tiny_release), replace(options, coarse=False))
    agreement = (sitk.GetArrayFromImage(theirs) == ours.masks["chambers"]).mean()
    # An untrained network is full of ties; a shift by one voxel would give about 0.9.
    assert agreement > 0.998
