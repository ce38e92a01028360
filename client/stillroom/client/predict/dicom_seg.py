"""Label maps as one DICOM Segmentation (PS3.3 A.51) that refers to the series it was made from.

It carries the patient's identity, copied from that series as the standard asks, and so stays on the site
like the series itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from stillroom.common.errors import DataError

ANATOMY = CodedConcept("123037004", "SCT", "Anatomical Structure")
MORPHOLOGY = CodedConcept("49755003", "SCT", "Morphologically Altered Structure")

CODES: dict[str, tuple[CodedConcept, CodedConcept]] = {
    "lv": (ANATOMY, CodedConcept("87878005", "SCT", "Left ventricle")),
    "rv": (ANATOMY, CodedConcept("53085002", "SCT", "Right ventricle")),
    "la": (ANATOMY, CodedConcept("82471001", "SCT", "Left atrium")),
    "ra": (ANATOMY, CodedConcept("73829009", "SCT", "Right atrium")),
    "myocardium": (ANATOMY, CodedConcept("74281007", "SCT", "Myocardium")),
    "heart": (ANATOMY, CodedConcept("80891009", "SCT", "Heart")),
    "aorta": (ANATOMY, CodedConcept("15825003", "SCT", "Aorta")),
    "pulmonary_artery": (ANATOMY, CodedConcept("81040000", "SCT", "Pulmonary artery")),
    "calcification": (MORPHOLOGY, CodedConcept("18115005", "SCT", "Pathologic calcification")),
}
"""Category and type (PS3.16 CID 7150, 7151) by class name in lower case; SNOMED CT."""
SYNONYMS = {
    "left_ventricle": "lv", "right_ventricle": "rv", "left_atrium": "la", "right_atrium": "ra",
    "myo": "myocardium", "lv_myocardium": "myocardium", "pa": "pulmonary_artery", "ao": "aorta",
    "calcium": "calcification", "calc": "calcification",
}  # fmt: skip
PRIVATE_SCHEME = "99STILLROOM"
"""For classes without a code above (PS3.16 section 8: private schemes begin with 99)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One label type's map.

    Attributes:
        label: Its name.
        classes: Names of values 1..n.
        mask: ``(D, H, W)`` uint8 on the grid of the series.
    """

    label: str
    classes: tuple[str, ...]
    mask: NDArray[np.uint8]


def codes_of(name: str) -> tuple[CodedConcept, CodedConcept]:
    """Category and type of a class; a private code that says the name when it is not known."""
    key = name.lower().replace("-", "_")
    key = SYNONYMS.get(key, key)
    return CODES.get(key, (ANATOMY, CodedConcept(key[:16].upper(), PRIVATE_SCHEME, name[:64])))


def write_segmentation(
    path: Path,
    layers: Mapping[str, Layer],
    image: sitk.Image,
    files: tuple[Path, ...],
    *,
    model: str,
) -> bool:
    """Write all classes of all label types as binary segments.

    Args:
        path: Where.
        layers: By label type.
        image: The scan as loaded: its grid.
        files: The series' files, in any order; one for an enhanced multi-frame image.
        model: Digest of the release, as the algorithm's version.

    Returns:
        False when nothing was marked: an empty segmentation is not valid DICOM.

    Raises:
        DataError: STR-410, a slice of the series matches none of ``image``, or its headers lack
            what the standard requires.
    """
    marked = np.zeros(image.GetSize()[2], np.bool_)
    for layer in layers.values():
        marked |= layer.mask.any(axis=(1, 2))
    if not marked.any():
        return False
    sources, planes = _sources(files, image)
    if len(sources) > 1:
        # Slices without a mark need neither a frame nor a place in memory.
        chosen = [n for n, k in enumerate(planes) if marked[k]]
        sources, planes = [sources[n] for n in chosen], [planes[n] for n in chosen]
    names = [(layer, n, c) for layer in layers.values() for n, c in enumerate(layer.classes, 1)]
    height, width = image.GetSize()[1], image.GetSize()[0]
    pixels = np.empty((len(planes), height, width, len(names)), np.uint8)
    for position, (layer, number, _) in enumerate(names):
        for frame, k in enumerate(planes):
            pixels[frame, :, :, position] = layer.mask[k] == number
    _compose(sources, pixels, names, model).save_as(path)
    return True


def _compose(
    sources: list[pydicom.Dataset],
    pixels: NDArray[np.uint8],
    names: list[tuple[Layer, int, str]],
    model: str,
) -> hd.seg.Segmentation:
    """The object itself; ``pixels`` is ``(frames, H, W, segments)`` of 0 and 1.

    Raises:
        DataError: STR-410, the series lacks attributes that the standard requires.
    """
    try:
        return _segmentation(sources, pixels, names, model)
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        # highdicom's own words may quote the header.
        raise DataError(
            "The series' headers lack what a DICOM SEG must copy from them.",
            fix="Use the NIfTI label maps, or predict on the original export.",
            code="STR-410",
        ) from error


def _segmentation(
    sources: list[pydicom.Dataset],
    pixels: NDArray[np.uint8],
    names: list[tuple[Layer, int, str]],
    model: str,
) -> hd.seg.Segmentation:
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, layer.label, name, model)
            for number, (layer, _, name) in enumerate(names, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=300,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="stillroom",
        manufacturer_model_name="stillroom-client predict",
        software_versions=version("stillroom"),
        device_serial_number=model[:16],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="STILLROOM",
        content_description="Research only; not a medical device",
        series_description="stillroom: research only",
    )


def _description(number: int, label: str, name: str, model: str) -> hd.seg.SegmentDescription:
    category, kind = codes_of(name)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"{label}: {name}"[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="stillroom",
            family=CodedConcept("123109", "DCM", "Artificial Intelligence"),
            version=model[:16],
        ),
    )


def _sources(files: tuple[Path, ...], image: sitk.Image) -> tuple[list[pydicom.Dataset], list[int]]:
    """Headers of the series and the slice of ``image`` that each frame is."""
    datasets: list[pydicom.Dataset] = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in files
    ]
    if len(datasets) == 1 and "PerFrameFunctionalGroupsSequence" in datasets[0]:
        frames = datasets[0].PerFrameFunctionalGroupsSequence
        positions = [f.PlanePositionSequence[0].ImagePositionPatient for f in frames]
    else:
        positions = [dataset.ImagePositionPatient for dataset in datasets]
    for dataset in datasets:
        # De-identified exports blank it; intake has accepted the series as CT, and only
        # single-frame images come without a class that says so.
        if not dataset.get("SOPClassUID"):
            dataset.SOPClassUID = CTImageStorage
    planes: list[int] = []
    for position in positions:
        index = image.TransformPhysicalPointToContinuousIndex([float(v) for v in position])
        k = round(index[2])
        if max(abs(index[0]), abs(index[1]), abs(index[2] - k)) > 0.05 or not (
            0 <= k < image.GetSize()[2]
        ):
            raise DataError(
                "A slice of the series does not lie on the grid that was read.",
                fix="Use the NIfTI label maps, and report this series' scanner and geometry.",
                code="STR-410",
            )
        planes.append(k)
    return datasets, planes
