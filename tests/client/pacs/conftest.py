"""A real Orthanc on loopback, with a user, an AE title and a few objects; one a session."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from stillroom.client.pacs.section import PacsSection

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "stillroom", "s3cret"
PACS_AE, SITE_AE = "PACSA", "FLSITE"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def section(folder: Path, **more: Any) -> PacsSection:
    """``[pacs]`` with its folders below ``folder``."""
    common = {"folder": folder / "data/pulled", "state": folder / "pull", "keep_free_mib": 0}
    return PacsSection.model_validate(common | more)


@dataclass(frozen=True)
class Orthanc:
    """A running PACS and how to speak to it."""

    http: int
    dicom: int
    store: int

    def put(self, *objects: Dataset) -> None:
        """Store objects, as a modality would."""
        for one in objects:
            stream = BytesIO()
            pydicom.dcmwrite(stream, one, enforce_file_format=True)
            self.ask("POST", "/instances", data=stream.getvalue())

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Orthanc's own interface, for what only an administrator does."""
        answer = requests.request(
            method, f"http://127.0.0.1:{self.http}{path}", auth=(USER, PASSWORD), timeout=60, **more
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def clear(self) -> None:
        """Forget every patient."""
        for one in self.ask("GET", "/patients"):
            self.ask("DELETE", f"/patients/{one}")

    def web(self, folder: Path, **more: Any) -> PacsSection:
        """``[pacs]`` for DICOMweb, with folders below ``folder``."""
        password = folder / "password"
        password.write_text(PASSWORD + "\n")
        password.chmod(0o600)
        web = {
            "url": f"http://127.0.0.1:{self.http}/dicom-web",
            "user": USER,
            "password_file": password,
        }
        return section(folder, web=web | more.pop("web", {}), **more)

    def dimse(self, folder: Path, **more: Any) -> PacsSection:
        """``[pacs]`` for C-FIND and C-MOVE."""
        dimse = {
            "host": "127.0.0.1",
            "port": self.dicom,
            "called_ae": PACS_AE,
            "calling_ae": SITE_AE,
            "listen": "127.0.0.1",
            "store_port": self.store,
            "timeout_s": 60,
        }
        return section(folder, dimse=dimse | more.pop("dimse", {}), **more)


@contextlib.contextmanager
def started(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """One with ``more`` settings; skipped where it is not installed, which CI does not allow."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or not PLUGIN.exists():
        reason = (
            "Orthanc with its DICOMweb plugin is not installed (apt: orthanc orthanc-dicomweb)."
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    http, dicom, store = free_ports(3)
    site = {"AET": SITE_AE, "Host": "127.0.0.1", "Port": store}
    allow = {f"Allow{what}": True for what in ("Echo", "Find", "Move", "Get", "Store")}
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "db"),
                "IndexDirectory": str(folder / "db"),
                "Plugins": [str(PLUGIN)],
                "HttpPort": http,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {USER: PASSWORD},
                "DicomAet": PACS_AE,
                "DicomPort": dicom,
                "DicomCheckCalledAet": True,
                "DicomAlwaysAllowEcho": False,
                "DicomAlwaysAllowFind": False,
                "DicomAlwaysAllowGet": False,
                "DicomAlwaysAllowMove": False,
                "DicomAlwaysAllowStore": False,
                "DicomModalities": {"site": site | allow | more.pop("site", {})},
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                **more,
            }
        )
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder
        )
    orthanc = Orthanc(http, dicom, store)
    try:
        _until(lambda: orthanc.ask("GET", "/system"))
        yield orthanc
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Started once."""
    with started(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture(scope="session")
def start_orthanc() -> Callable[..., AbstractContextManager[Orthanc]]:
    """Starts another one, with settings of its own."""
    return started


@pytest.fixture
def orthanc(running_orthanc: Orthanc) -> Orthanc:
    """The same one, emptied."""
    running_orthanc.clear()
    return running_orthanc


def _until(question: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            question()
            return
        except requests.RequestException:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.fixture
def ct_series() -> Callable[..., Sequence[Dataset]]:
    """Makes small CT series with a patient in them."""
    return _ct_series


def _ct_series(
    count: int = 4,
    *,
    accession: str = "ACC-1",
    study: str | None = None,
    patient: str = "DOE^JANE",
    edit: Callable[[Dataset, int], object] | None = None,
    size: int = 16,
) -> Sequence[Dataset]:
    """A small CT series with a patient in it."""
    study, series, frame = study or generate_uid(), generate_uid(), generate_uid()
    rng = np.random.default_rng(0)
    slices = []
    for number in range(count):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.ImageType, data.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.InstanceNumber = frame, number + 1
        data.PatientName, data.PatientID, data.PatientBirthDate = patient, "SECRET-77", "19500101"
        data.AccessionNumber, data.StudyDate, data.StudyID = accession, "20250102", "S1"
        data.InstitutionName, data.StudyDescription = "St. Elsewhere", "Jane's heart"
        data.ImagePositionPatient = [-10, -20, 30 + 0.625 * number]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.5, 0.4], 0.625
        data.Rows = data.Columns = size
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = rng.integers(0, 4096, (size, size)).astype(np.uint16).tobytes()
        if edit is None or edit(data, number) != "drop":
            slices.append(data)
    return slices
