"""Folders of pictures, such as the tiles of a microscope slide: one folder is one case.

Only what a rule of the site names is read as such (``[pictures]``): a data folder may hold
screenshots. PNG and TIFF, grey (8 or 16 bit) or colour (8 bit); all pictures of a folder have one
size. What the network sees is grey from 0 to 255: 16 bit is divided by 257, colour becomes luminance
(ITU-R 601-2, Pillow's ``L``). Text, dates and other tags in the files are never looked at.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from stillroom.client.intake.catalogue import Finding
from stillroom.client.intake.quality import Limits, check_size
from stillroom.common.errors import DataError

SUFFIXES = (".png", ".tif", ".tiff")
FORMATS = ("PNG", "TIFF")
DEEP = frozenset({"I;16", "I;16B", "I;16L"})
"""Pillow's names of 16-bit grey."""
MODES = DEEP | {"1", "L", "LA", "P", "RGB", "RGBA"}
TO_BYTE = 257
"""65535 / 255."""

UNREADABLE = Finding(
    "STR-410",
    "A picture cannot be read, or is neither grey nor 8-bit colour with one page.",
    "Export it as PNG or TIFF: 8- or 16-bit grey, or 8-bit RGB.",
)
SIZES = Finding(
    "STR-417",
    "The pictures of a folder differ in size.",
    "Export tiles of one size, or leave the odd ones out.",
)


def is_picture(path: Path) -> bool:
    """Whether the name says PNG or TIFF."""
    return path.name.lower().endswith(SUFFIXES)


def look(files: Sequence[Path], limits: Limits) -> tuple[tuple[int, int, int], tuple[Finding, ...]]:
    """Voxels along (x, y, z) of a folder's pictures, by their headers, and reasons against them.

    A folder may hold a single picture: the fewest slices of a series are not asked for.
    """
    try:
        sizes = {_size(path) for path in files}
    except DataError:
        return (0, 0, 0), (UNREADABLE,)
    width, height = max(sizes)
    size = (width, height, len(files))
    if len(sizes) > 1:
        return size, (SIZES,)
    large = check_size(size, limits)
    return size, () if large is None else (large,)


def read(files: Sequence[Path], size: tuple[int, int, int]) -> sitk.Image:
    """Grey from 0 to 255 as int16, a slice for each file.

    Args:
        files: In the order of the slices.
        size: What ``look`` said.

    Raises:
        DataError: A file cannot be decoded (STR-418), or is not what was scanned (STR-410).
    """
    slices = np.empty((size[2], size[1], size[0]), np.int16)
    for place, path in enumerate(files):
        if _size(path) != size[:2]:
            raise DataError(
                "The pictures of a folder are not those that were scanned.",
                fix="Run `stillroom-client data scan` again.",
                code="STR-410",
            )
        slices[place] = _grey(path)
    return sitk.GetImageFromArray(slices)


def _size(path: Path) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        DataError: STR-410.
    """
    try:
        with _opened(path) as picture:
            if picture.mode not in MODES or getattr(picture, "n_frames", 1) != 1:
                raise _refusal()
            return picture.size
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise _refusal() from error


def _grey(path: Path) -> NDArray[np.int16]:
    try:
        with _opened(path) as picture:
            if picture.mode in DEEP:
                deep = np.asarray(picture, np.float32)
                return np.rint(deep / TO_BYTE).astype(np.int16)
            return np.asarray(picture.convert("L")).astype(np.int16)
    except Exception as error:  # as above
        raise DataError(
            "A picture cannot be decoded to the size that its header claims.",
            fix="Copy or export it again.",
            code="STR-418",
        ) from error


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # A picture of suspicious size is an error here; Pillow's words about tags stay unsaid.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _refusal() -> DataError:
    return DataError(UNREADABLE.reason, fix=UNREADABLE.fix, code=UNREADABLE.code)
