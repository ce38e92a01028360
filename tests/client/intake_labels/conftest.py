"""A small scan in every format: a DICOM series with planted identifiers, and labels on it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRETS = ("PLANTED^NAME", "PLANTED-ID-4711", "19020304")
"""Name, identifier and birth date that must never be found again."""

RT_STRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"

TILTED = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
"""Rotated about the body axis; row-major, columns are the directions of the axes."""


@dataclass(frozen=True)
class Series:
    """A DICOM series on disk and the same voxels as an image."""

    files: list[Path]
    image: sitk.Image
    uid: str
    frame_uid: str

    @property
    def datasets(self) -> list[Dataset]:
        """The slices, read."""
        return [pydicom.dcmread(file) for file in self.files]


@pytest.fixture
def make_image() -> Callable[..., sitk.Image]:
    """An image of 10 x 9 x 8 voxels with numbers of its own everywhere."""

    def make(
        direction: tuple[float, ...] = tuple(np.eye(3).ravel()),
        origin: tuple[float, float, float] = (-31.5, 12.25, -400.0),
        spacing: tuple[float, float, float] = (0.7, 0.9, 1.25),
    ) -> sitk.Image:
        values = np.random.default_rng(3).integers(-1000, 900, (8, 9, 10), dtype=np.int16)
        image = sitk.GetImageFromArray(values)
        image.SetDirection(direction)
        image.SetOrigin(origin)
        image.SetSpacing(spacing)
        return image

    return make


@pytest.fixture
def truth() -> NDArray[np.uint8]:
    """Three classes on (8, 9, 10), one of them a single voxel."""
    mask = np.zeros((8, 9, 10), np.uint8)
    mask[2:6, 2:7, 3:8] = 1
    mask[3:5, 4:6, 4:7] = 2
    mask[6, 1, 8] = 3
    return mask


def _dataset(path: Path, sop_class: str, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.Modality, data.StudyID, data.AccessionNumber = modality, "1", "A1"
    data.PatientName, data.PatientID, data.PatientBirthDate = SECRETS
    data.PatientSex, data.StudyDate, data.StudyTime = "O", "20260101", "120000"
    data.ReferringPhysicianName = ""
    return data


@pytest.fixture
def write_series(make_image: Callable[..., sitk.Image]) -> Callable[..., Series]:
    """Write an image as an uncompressed CT series."""

    def write(folder: Path, image: sitk.Image | None = None, frame_uid: str = "") -> Series:
        image = image if image is not None else make_image()
        folder.mkdir(parents=True, exist_ok=True)
        series, frame, study = generate_uid(), frame_uid or generate_uid(), generate_uid()
        matrix = np.asarray(image.GetDirection()).reshape(3, 3)
        values = sitk.GetArrayFromImage(image)
        files = []
        for k in range(image.GetSize()[2]):
            path = folder / f"IM{k:04d}.dcm"
            data = _dataset(path, CT_IMAGE, "CT")
            data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            data.SeriesInstanceUID, data.StudyInstanceUID = series, study
            data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
            data.SeriesNumber, data.InstanceNumber = 1, k + 1
            where = image.TransformIndexToPhysicalPoint((0, 0, k))
            data.ImagePositionPatient = [f"{v:.10g}" for v in where]
            data.ImageOrientationPatient = [f"{v:.10g}" for v in (*matrix[:, 0], *matrix[:, 1])]
            across, down, through = image.GetSpacing()
            data.PixelSpacing, data.SliceThickness = [down, across], through
            data.Rows, data.Columns = values.shape[1:]
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
            data.PixelRepresentation = 1
            data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
            data.PixelData = values[k].tobytes()
            data.save_as(path, enforce_file_format=True)
            files.append(path)
        return Series(files, image, series, frame)

    return write


@pytest.fixture
def write_rtstruct() -> Callable[..., Path]:
    """Write contours (mm) by ROI name as an RTSTRUCT."""

    def write(
        path: Path, regions: dict[str, list[NDArray[np.float64]]], series: Series | None = None
    ) -> Path:
        data = _dataset(path, RT_STRUCT, "RTSTRUCT")
        data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
        names, contours = [], []
        for number, (name, polygons) in enumerate(regions.items(), 1):
            region = Dataset()
            region.ROINumber, region.ROIName = number, name
            names.append(region)
            drawn = Dataset()
            drawn.ReferencedROINumber = number
            drawn.ContourSequence = []
            for polygon in polygons:
                contour = Dataset()
                contour.ContourGeometricType = "CLOSED_PLANAR"
                contour.NumberOfContourPoints = len(polygon)
                contour.ContourData = [f"{v:.8g}" for v in polygon.ravel()]
                drawn.ContourSequence.append(contour)
            contours.append(drawn)
        data.StructureSetROISequence, data.ROIContourSequence = names, contours
        if series is not None:
            referenced, study, frame = Dataset(), Dataset(), Dataset()
            referenced.SeriesInstanceUID = series.uid
            study.RTReferencedSeriesSequence = [referenced]
            frame.FrameOfReferenceUID = series.frame_uid
            frame.RTReferencedStudySequence = [study]
            data.ReferencedFrameOfReferenceSequence = [frame]
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real files; tests that need it are skipped without it."""
    folder = os.environ.get("STILLROOM_TEST_DATA")
    if not folder:
        pytest.skip("STILLROOM_TEST_DATA does not name a folder with the public test scans.")
    return Path(folder)


@pytest.fixture
def secrets() -> tuple[str, ...]:
    """What the planted series says about its patient."""
    return SECRETS


@pytest.fixture
def tilted() -> tuple[float, ...]:
    """Directions of a scan that is oblique to the body."""
    return TILTED
