"""A case as a DICOM CT series: one file per slice, as a scanner would send it.

Everything in the headers is invented (patients are called ``PHANTOM^...``) and follows from the seed:
UIDs are hashes of it, so two runs write the same bytes. Attributes are those of the CT Image Storage
IOD (DICOM PS3.3 A.3), type 1 all filled, type 2 present.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from stillroom.deploy.phantom.painting import Case
from stillroom.deploy.phantom.scanner import Scanner

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
}
"""Values of ``Scanner.transfer``."""
INTERCEPT = -1024
"""Stored value 0 in Hounsfield units."""


@dataclass(frozen=True, slots=True)
class SeriesIds:
    """Who and what a series says it is.

    Attributes:
        patient: Identifier, e.g. ``N0001``; the name is ``PHANTOM^`` plus it.
        study, series, frame: UIDs of study, series and frame of reference.
    """

    patient: str
    study: str
    series: str
    frame: str


def draw_ids(site: str, patient: str, seed: int) -> SeriesIds:
    """Identifiers that follow from the site, the patient and the seed alone."""
    study, series, frame = (
        generate_uid(entropy_srcs=["stillroom-phantom", site, patient, str(seed), what])
        for what in ("study", "series", "frame")
    )
    return SeriesIds(patient, str(study), str(series), str(frame))


def write_series(case: Case, folder: Path, ids: SeriesIds, scanner: Scanner) -> list[Path]:
    """Write one file per slice into ``folder``, feet first, and return their paths in that order.

    Args:
        case: The scan; ``hu`` must lie in [-1024, 31743].
        folder: Created; files in it are called ``IM0001.dcm`` and so on.
        ids: See ``draw_ids``.
        scanner: Manufacturer, transfer syntax and the rest of the looks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    image = _header(case, ids, scanner)  # one dataset, changed from slice to slice: it is faster
    for index, hu in enumerate(case.hu):
        _place(image, case, ids, index)
        stored = (hu - np.int16(INTERCEPT)).astype("<i2")
        if scanner.transfer == "rle":
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # of the dataset so far
            image.compress(RLELossless, stored, generate_instance_uid=False)
        else:
            image.PixelData = stored.tobytes()
            image.file_meta.TransferSyntaxUID = SYNTAXES[scanner.transfer]
        files.append(folder / f"IM{index + 1:04d}.dcm")
        image.save_as(files[-1], enforce_file_format=True)
    return files


def _header(case: Case, ids: SeriesIds, scanner: Scanner) -> Dataset:
    """What all slices of a series share."""
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = CTImageStorage
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.ImplementationClassUID = UID("1.2.826.0.1.3680043.8.498.1")
    d.SpecificCharacterSet = "ISO_IR 192"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.SOPClassUID = CTImageStorage
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = "20260105"
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "101500"
    d.AccessionNumber = ""
    d.Modality = "CT"
    d.Manufacturer = scanner.manufacturer
    d.ManufacturerModelName = scanner.model
    d.ReferringPhysicianName = ""
    d.StudyDescription = "SYNTHETIC CARDIAC CT"
    d.SeriesDescription = "CTA HEART"
    d.PatientName = f"PHANTOM^{ids.patient}"
    d.PatientID = ids.patient
    d.PatientBirthDate = ""
    d.PatientSex = ""
    d.SliceThickness = _number(case.spacing_mm[2])
    d.KVP = 100
    d.ConvolutionKernel = "PHANTOM"
    d.PatientPosition = "HFS"
    d.StudyInstanceUID, d.SeriesInstanceUID = ids.study, ids.series
    d.StudyID = "1"
    d.SeriesNumber = 2
    d.AcquisitionNumber = 1
    d.FrameOfReferenceUID = ids.frame
    d.PositionReferenceIndicator = ""
    _describe_pixels(d, case)
    return d


def _describe_pixels(d: Dataset, case: Case) -> None:
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.Rows, d.Columns = case.hu.shape[1:]
    d.PixelSpacing = [_number(case.spacing_mm[1]), _number(case.spacing_mm[0])]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.WindowCenter, d.WindowWidth = 200, 800
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = INTERCEPT, 1, "HU"
    # Columns of the direction matrix are the directions of a row (x) and a column (y).
    d.ImageOrientationPatient = [_number(v) for v in (*case.direction[:, 0], *case.direction[:, 1])]


def _place(image: Dataset, case: Case, ids: SeriesIds, index: int) -> None:
    """What tells one slice from the next."""
    instance = generate_uid(entropy_srcs=[ids.series, str(index)])
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = instance
    image.InstanceNumber = index + 1
    corner = np.asarray(case.origin_mm) + case.direction[:, 2] * case.spacing_mm[2] * index
    image.ImagePositionPatient = [_number(v) for v in corner]
    image.SliceLocation = _number(float(corner[2]))


def _number(value: float) -> str:
    """A decimal string of at most 16 characters (DICOM PS3.5 6.2), to 1e-6 or better."""
    return f"{value + 0.0:.9g}"
