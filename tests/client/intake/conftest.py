"""Tiny CT series written by pydicom, and the folder of real ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

WriteSeries = Callable[..., Path]


def _slice(series: str, frame: str, pixels: np.ndarray) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.ImageType, data.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", series
    data.FrameOfReferenceUID, data.InstanceNumber = frame, 1
    data.PatientName, data.PatientID = "DOE^JANE", "SECRET-77"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = pixels.astype(np.uint16).tobytes()
    return data


@pytest.fixture
def write_series(tmp_path: Path) -> WriteSeries:
    """Writes a series: keywords are a grid, and ``edit(data, number)`` changes or drops a slice."""

    def write(
        name: str = "series",
        *,
        count: int = 20,
        step: tuple[float, float, float] = (0.0, 0.0, 0.625),
        origin: tuple[float, float, float] = (-10.0, -20.0, 30.0),
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        spacing: tuple[float, float] = (0.5, 0.4),
        edit: Callable[[Any, int], object] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        series, frame = generate_uid(), generate_uid()
        rng = np.random.default_rng(0)
        for number in range(count):
            data = _slice(series, frame, rng.integers(0, 4096, (6, 5)))
            at = np.asarray(origin) + number * np.asarray(step)
            data.ImagePositionPatient = [f"{mm:.8f}"[:16] for mm in at]
            data.ImageOrientationPatient = [f"{c:.8f}" for c in orientation]
            data.PixelSpacing = list(spacing)
            if edit is not None and edit(data, number) == "drop":
                continue
            # Names in another order than positions: nobody may rely on them.
            pydicom.dcmwrite(folder / f"{(number * 7) % 101:03}", data, enforce_file_format=True)
        return folder

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real CT; its tests are skipped where there is none."""
    folder = os.environ.get("STILLROOM_TEST_DATA")
    if not folder:
        pytest.skip("STILLROOM_TEST_DATA does not name a folder of real CT.")
    return Path(folder)
