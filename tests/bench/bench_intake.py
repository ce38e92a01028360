"""Headers per second and time to load a series, beside plain SimpleITK.

Run: ``python tests/bench/bench_intake.py``. Writes 200 slices of 512 x 512 (105 MB) into a
temporary folder and reads them from a warm page cache, in one process.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from stillroom.client.intake.headers import read_slices
from stillroom.client.intake.index import scan
from stillroom.client.intake.volume import load_volume

SLICES, EDGE, REPEATS = 200, 512, 5


def write_series(folder: Path) -> None:
    """A CT of noise, 0.5 x 0.5 x 0.625 mm, int16, uncompressed."""
    rng = np.random.default_rng(0)
    series, frame, study = generate_uid(), generate_uid(), generate_uid()
    for number in range(SLICES):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.ImageType, data.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.InstanceNumber = frame, number + 1
        data.ImagePositionPatient = [-128, -128, number * 0.625]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.5, 0.5], 0.625
        data.Rows = data.Columns = EDGE
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelRepresentation = 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        # Private elements of the number and size that scanners write.
        block = data.private_block(0x0019, "BENCH", create=True)
        for element in range(100):
            block.add_new(element, "LO", "x" * 40)
        data.PixelData = rng.integers(0, 4096, (EDGE, EDGE), np.uint16).tobytes()
        data.save_as(folder / f"{number:04}", enforce_file_format=True)


def best_s(action: Callable[[], object]) -> tuple[float, float]:
    """Shortest (wall, CPU) seconds of some runs: what the machine does when nobody else uses it."""
    action()
    walls, cpus = [], []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "series"
        folder.mkdir()
        write_series(folder)
        files = sorted(folder.iterdir())
        headers = best_s(lambda: [read_slices(path) for path in files])
        whole = best_s(lambda: scan(folder, state=Path(name) / "state"))
        (entry,) = scan(folder, state=Path(name) / "state").entries
        assert entry.accepted, entry.findings
        names = [str(path) for path in entry.files]
        plain = best_s(lambda: sitk.ReadImage(names))
        ours = best_s(lambda: load_volume(entry))
        say = sys.stdout.write
        say("                    wall      CPU\n")
        say(f"headers/s       {SLICES / headers[0]:8.0f} {SLICES / headers[1]:8.0f}\n")
        say(f"scan, files/s   {SLICES / whole[0]:8.0f} {SLICES / whole[1]:8.0f}\n")
        say(f"plain sitk, s   {plain[0]:8.3f} {plain[1]:8.3f}\n")
        say(f"load_volume, s  {ours[0]:8.3f} {ours[1]:8.3f}\n")
        say(f"ratio           {ours[0] / plain[0]:8.2f} {ours[1] / plain[1]:8.2f}\n")


if __name__ == "__main__":
    main()
