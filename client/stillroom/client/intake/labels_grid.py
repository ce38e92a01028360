"""Label maps: NIfTI, NRRD and MetaImage, with the segment names of 3D Slicer's ``.seg.nrrd``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from stillroom.client.intake.geometry import Grid, is_same_grid
from stillroom.common.errors import DataError

MAX_VOXELS = 2**31
"""Larger than 1024 x 1024 x 2000: no CT of a heart has that, a decompression bomb may."""


def read(
    file: Path,
    study_classes: Sequence[str],
    classes: Mapping[str, int | str] | None,
    reference: sitk.Image,
) -> NDArray[np.uint8]:
    """Class indices of a label map on the grid of ``reference``; see ``labels.read_mask``."""
    image = _load(file)
    if classes is None and _segments(image):
        # A 3D Slicer segmentation says its names: use them rather than count values.
        classes = {name: name for name in study_classes}
    out = np.zeros(image.GetSize()[::-1], np.uint8)
    strict = classes is None
    wanted = classes or {name: value for value, name in enumerate(study_classes, 1)}
    for index, name in enumerate(study_classes, 1):
        layer, value = _place(image, wanted[name]) if name in wanted else (0, None)
        if value is not None:
            out[_layer(image, layer) == value] = index
    if strict:
        _refuse_other_values(_layer(image, 0), len(study_classes))
    return onto(_with_grid(out, image), reference)


def read_any(file: Path, reference: sitk.Image) -> NDArray[np.uint8]:
    """1 wherever a label map is not zero, on the grid of ``reference``, ``(D, H, W)``."""
    image = _load(file)
    held = np.zeros(image.GetSize()[::-1], np.uint8)
    for layer in range(image.GetNumberOfComponentsPerPixel()):
        held |= (_layer(image, layer) != 0).astype(np.uint8)
    return onto(_with_grid(held, image), reference)


def contents(file: Path) -> dict[int | str, str]:
    """Segment names of a ``.seg.nrrd``, else the values of a label map, each as text."""
    image = _load(file)
    named: dict[int | str, str] = {name: name for name in _segments(image)}
    if named:
        return named
    values = np.unique(_layer(image, 0))
    return {int(value): str(value) for value in values if value != 0}


def onto(labels: sitk.Image, reference: sitk.Image) -> NDArray[np.uint8]:
    """A label image on the grid of ``reference`` by nearest neighbour, ``(D, H, W)``.

    Voxel-exact where the two grids share their voxels, whatever the order of their axes.

    Raises:
        DataError: The label has voxels, but none of them lies in the scan (STR-432).
    """
    if is_same_grid(Grid.of(labels), Grid.of(reference)):
        return sitk.GetArrayFromImage(labels)
    moved = sitk.GetArrayFromImage(
        sitk.Resample(labels, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    )
    if not moved.any() and sitk.GetArrayViewFromImage(labels).any():
        raise DataError(
            "A segmentation lies outside the field of view of its scan.",
            fix="Check that the label belongs to this series and was not moved or re-origined.",
            code="STR-432",
        )
    return moved


def _load(file: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) == 4 and size[3] == 1:
            reader.SetExtractSize([*size[:3], 0])  # a singleton time axis, as some tools write
        elif len(size) != 3:
            raise _unreadable("A label map is not a volume of three dimensions.")
        if np.prod(size, dtype=np.float64) > MAX_VOXELS:
            raise DataError(
                "A label map is larger than any cardiac CT.",
                fix="Check the file; it may be damaged.",
                code="STR-422",
            )
        return reader.Execute()
    except RuntimeError as error:
        # SimpleITK's message quotes the path, so it is not passed on.
        raise _unreadable("A label map cannot be read.") from error


def _layer(image: sitk.Image, layer: int) -> NDArray[np.int64]:
    """Whole-number values of one layer, ``(D, H, W)``."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, layer)
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise _unreadable("A label map holds values that are not numbers.")
    whole = np.rint(values)
    if np.abs(values - whole).max(initial=0.0) > 1e-4:
        raise _unreadable("A label map holds fractions; class values must be whole numbers.")
    return whole.astype(np.int64)


def _segments(image: sitk.Image) -> dict[str, tuple[int, int]]:
    """Name in lower case -> (layer, value), from the header of a ``.seg.nrrd``; else empty."""
    keys = set(image.GetMetaDataKeys())
    found: dict[str, tuple[int, int]] = {}
    number = 0
    while f"Segment{number}_Name" in keys:
        name = image.GetMetaData(f"Segment{number}_Name").strip().lower()
        place = []
        for part, default in (("Layer", "0"), ("LabelValue", "1")):
            key = f"Segment{number}_{part}"
            text = image.GetMetaData(key) if key in keys else default
            if not text.strip().isdecimal():
                raise _unreadable("A segmentation's header has a value that is not a number.")
            place.append(int(text))
        if name in found:
            raise _unreadable("A segmentation names two segments alike.")
        found[name] = (place[0], place[1])
        number += 1
    return found


def _place(image: sitk.Image, value: int | str) -> tuple[int, int | None]:
    """(layer, voxel value) of a class; the value is None when the file does not have it."""
    layers = image.GetNumberOfComponentsPerPixel()
    if isinstance(value, int):
        if layers > 1:
            raise _unreadable("A segmentation has several layers, so a value says too little.")
        return 0, value
    segments = _segments(image)
    if not segments:
        raise _unreadable("A label map has no segment names to look for.")
    layer, found = segments.get(value.strip().lower(), (0, None))
    if layer >= layers:
        raise _unreadable("A segmentation's header names a layer that it does not have.")
    return layer, found


def _refuse_other_values(values: NDArray[np.int64], count: int) -> None:
    if values.min(initial=0) < 0 or values.max(initial=0) > count:
        raise _unreadable(
            f"A label map holds values other than 0 to {count}, the study's number of classes."
        )


def _with_grid(array: NDArray[np.uint8], like: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(like.GetOrigin())
    image.SetSpacing(like.GetSpacing())
    image.SetDirection(like.GetDirection())
    return image


def _unreadable(what: str) -> DataError:
    return DataError(
        what,
        fix="Write it again as a label map, and say in `classes` which value means what.",
        code="STR-431",
    )
