"""Which series may be used, and why the others may not. Pure: headers in, findings out.

The checks run in this order. The first three end the list, since the rest would only repeat
what is already clear; all others are reported together, so that one visit to the PACS is enough.

 1. STR-410  a file is damaged, or holds no image or no place in the patient
 2. STR-411  the modality is not CT
 3. STR-422  the matrix times the frames exceeds the limit, before anything is allocated
 4. STR-423  secondary capture, burned-in annotation, colour, projection or functional map
 5. STR-412  localiser
 6. STR-418  pixel data is shorter than the matrix needs, or its code stream is cut
 7. STR-419  values are not Hounsfield units
 8. STR-417  orientation, matrix or pixel size differ between slices
 9. STR-415  two slices at one position
10. STR-413  slices are not stacked along their normal
11. STR-414  slices are missing
12. STR-416  distances between slices differ
13. STR-420  too few slices
14. STR-421  the field of view is smaller than asked for
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillroom.client.intake.catalogue import Entry, Finding
from stillroom.client.intake.headers import SliceHeader
from stillroom.client.intake.stacking import Stack, Triple, extent_mm, is_placed, stack

SAME_DIRECTION = 1e-3
"""Cosines of one orientation: 0.06 degrees, 0.2 mm across a chest. Archives round to 6 decimals."""
SAME_PIXEL_MM = 1e-4
"""Pixel sizes of one series: 0.05 mm across 512 pixels."""
SAME_PLACE_MM = 0.01
"""Closer slices are one slice: no CT table moves less, and headers round to 0.01 at worst."""
TILT_DEGREES = 0.1
"""Real tilts are 1 degree and more; 0.1 over a 160 mm heart shifts the last slice by 0.3 mm."""
TILT_ROUNDING_MM = 0.05
"""A first pixel may lie this far beside the normal by rounding of positions alone."""
GAP_TOLERANCE = 0.02
"""Share of the slice distance by which gaps may differ: rounding, never a lost slice."""
GAP_ROUNDING_MM = 0.015
"""Two positions rounded to 0.01 mm differ from their true distance by up to this."""
WHOLE_STEPS = 0.1
"""A gap this close to 2, 3, ... steps is a loss of slices rather than an odd scan."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NOT_TISSUE = frozenset(
    {"PERFUSION", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "MIP", "MINIP", "PROJECTION", "VRT", "SSD"}
    | {"SCREENSHOT", "DOSE_INFO", "COLOR", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"}
)
"""Words of ImageType values 3 and on that announce maps, projections and pictures."""
LOCALISERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"})
GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})
MAX_SLOPE, MAX_SHIFT = 1e3, 1e6
"""Beyond these a rescale is a damaged number: CT reaches from -1024 to some 30,000 HU."""
HOUNSFIELD = frozenset({"", "HU", "HU_MOD", "US"})
"""RescaleType: absent in CT means HU (PS3.3 C.8.2.1); US, unspecified, is what converters write."""

FIX = {
    "STR-410": "Export the original series from the scanner or PACS, without conversion.",
    "STR-411": "Nothing to do: only CT series are used for training.",
    "STR-412": "Nothing to do: the scan itself is another series.",
    "STR-413": "Export an upright reconstruction, or correct the tilt before export.",
    "STR-414": "Export or copy the whole series again.",
    "STR-415": "Remove the copies, or split phases and reconstructions into series of their own.",
    "STR-416": "Export a reconstruction with one slice distance.",
    "STR-417": "Split the series into one per orientation and size before export.",
    "STR-418": "Copy or export the series again: the transfer broke off.",
    "STR-419": "Export the series again with rescale slope and intercept.",
    "STR-420": "Export the whole series, or lower --min-slices.",
    "STR-421": "Choose a reconstruction that covers the whole region.",
    "STR-422": "Export the series again; if it really is that large, crop it.",
    "STR-423": "Export the original reconstruction, not a picture made from it.",
}
"""What to do about each finding; the reason says what was found."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a site or study asks of a series.

    Attributes:
        min_slices: Fewest slices.
        region_mm: Smallest extent along the patient's (x, y, z); None asks for nothing.
        max_voxels: Most voxels of one volume.
    """

    min_slices: int = 16
    region_mm: Triple | None = None
    max_voxels: int = 2**31


def _finding(code: str, reason: str) -> Finding:
    return Finding(code, reason, FIX[code])


def check_slices(slices: Sequence[SliceHeader], limits: Limits) -> tuple[Finding, ...]:
    """Findings against one series; empty when it may be used. Raises nothing."""
    if ending := _readable(slices) or _modality(slices) or _too_large(slices, limits):
        return (ending,)
    found = [check_picture(slices), _localiser(slices), _truncated(slices), _hounsfield(slices)]
    if any(not is_placed(header) for header in slices):
        found.append(_finding("STR-410", "A slice lacks position, orientation or pixel size."))
    elif mixed := _mixed(slices):
        found.append(mixed)
    else:
        ordered = stack(slices)
        found += [_tilted(ordered), *_spaced(ordered)]
        found.append(check_region(ordered.size, ordered.spacing_mm, ordered.direction, limits))
    found.append(check_count(len(slices), limits))
    return tuple(finding for finding in found if finding is not None)


def check_count(count: int, limits: Limits) -> Finding | None:
    """13. Too few slices."""
    if count >= limits.min_slices:
        return None
    return _finding("STR-420", f"Slices: {count}; expected at least {limits.min_slices}.")


def check_size(size: Sequence[int], limits: Limits) -> Finding | None:
    """3. More voxels than allowed."""
    if 0 < math.prod(size) <= limits.max_voxels and min(size) > 0:
        return None
    return _finding(
        "STR-422", f"The header claims more voxels than the limit of {limits.max_voxels}, or none."
    )


def check_region(
    size: Sequence[int],
    spacing_mm: Triple,
    direction: tuple[float, float, float, float, float, float, float, float, float],
    limits: Limits,
) -> Finding | None:
    """14. The field of view is smaller than asked for, along the patient's axes."""
    if limits.region_mm is None:
        return None
    extent = extent_mm(size, spacing_mm, direction)
    if all(
        have + SAME_PLACE_MM >= want for have, want in zip(extent, limits.region_mm, strict=True)
    ):
        return None
    return _finding(
        "STR-421",
        "The field of view is {:.0f} x {:.0f} x {:.0f} mm, ".format(*extent)
        + "expected at least {:.0f} x {:.0f} x {:.0f} mm.".format(*limits.region_mm),
    )


def check_box(entry: Entry, low_mm: Triple, high_mm: Triple) -> Finding | None:
    """14. A box (LPS mm), such as a label's, that does not lie wholly in an entry's field of view."""
    direction = np.asarray(entry.direction).reshape(3, 3)
    ends = np.asarray([low_mm, high_mm], np.float64)
    corners = np.stack(np.meshgrid(*ends.T), axis=-1).reshape(-1, 3)
    index = ((corners - entry.origin_mm) @ direction) / np.asarray(entry.spacing_mm)
    if (index >= -0.5).all() and (index <= np.asarray(entry.size) - 0.5).all():
        return None
    return _finding("STR-421", "The labelled region reaches beyond the field of view.")


def _readable(slices: Sequence[SliceHeader]) -> Finding | None:
    """1. Files that are damaged, or hold no image."""
    bad = [s for s in slices if s.problem == "unreadable" or (s.modality == "CT" and not _image(s))]
    if not bad:
        return None
    return _finding("STR-410", f"Slices unreadable as an image: {len(bad)} of {len(slices)}.")


def _image(header: SliceHeader) -> bool:
    has_matrix = min(header.rows, header.columns) > 0 and header.bits_allocated in {8, 16, 32}
    return has_matrix and header.problem != "no-pixels"


def _modality(slices: Sequence[SliceHeader]) -> Finding | None:
    """2. Not CT."""
    if all(header.modality == "CT" for header in slices):
        return None
    return _finding("STR-411", "The modality is not CT.")


def _too_large(slices: Sequence[SliceHeader], limits: Limits) -> Finding | None:
    """3. Decompression bombs: by the header alone."""
    first = max(slices, key=lambda s: s.rows * s.columns)
    deep = max(len(slices), *(s.frames for s in slices), 1)
    return check_size((first.columns, first.rows, deep), limits)


def check_picture(slices: Sequence[SliceHeader]) -> Finding | None:
    """4. Pictures and maps, whose values are not the attenuation of tissue."""
    for header in slices:
        is_picture = header.sop_class.startswith(SECONDARY_CAPTURE) or header.conversion != ""
        is_colour = header.samples != 1 or header.photometric not in GREY
        words = {word for value in header.image_type[2:] for word in value.split()}
        if is_picture or is_colour or header.burned_in == "YES" or words & NOT_TISSUE:
            return _finding(
                "STR-423",
                "A secondary capture, projection, functional map or image with burned-in text.",
            )
    return None


def _localiser(slices: Sequence[SliceHeader]) -> Finding | None:
    """5. Scouts, by ImageType value 3 and on (PS3.3 C.8.2.1.1.1)."""
    words = {word for header in slices for value in header.image_type[2:] for word in value.split()}
    if not words & LOCALISERS:
        return None
    return _finding("STR-412", "A localiser image.")


def _truncated(slices: Sequence[SliceHeader]) -> Finding | None:
    """6. Cut files."""
    bad = sum(1 for header in slices if header.problem is not None)
    if not bad:
        return None
    return _finding(
        "STR-418",
        f"Slices cut short or of another size than claimed: {bad} of {len(slices)}.",
    )


def _hounsfield(slices: Sequence[SliceHeader]) -> Finding | None:
    """7. Values that cannot be turned into Hounsfield units."""
    for header in slices:
        slope, intercept = abs(header.slope or 0.0), header.intercept
        is_scaled = 0 < slope <= MAX_SLOPE and intercept is not None and abs(intercept) < MAX_SHIFT
        if not is_scaled or header.rescale_type not in HOUNSFIELD:
            return _finding(
                "STR-419", "Rescale slope or intercept is absent, zero or not in Hounsfield units."
            )
    return None


def _mixed(slices: Sequence[SliceHeader]) -> Finding | None:
    """8. More than one geometry in a series."""
    first = slices[0]
    same_matrix = all((s.rows, s.columns) == (first.rows, first.columns) for s in slices)
    cosines = np.asarray([s.orientation for s in slices], np.float64)
    pixel = np.asarray([s.pixel_mm for s in slices], np.float64)
    turned = np.abs(cosines - cosines[0]).max() > SAME_DIRECTION
    scaled = np.abs(pixel - pixel[0]).max() > SAME_PIXEL_MM
    frames = len({s.frame_of_reference_uid for s in slices}) > 1
    if same_matrix and not turned and not scaled and not frames:
        return None
    return _finding(
        "STR-417", "Slices differ in orientation, matrix, pixel size or frame of reference."
    )


def _tilted(ordered: Stack) -> Finding | None:
    """10. A sheared stack; resampling it as if it were upright would bend the anatomy.

    Positions decide, because a tilted scan that was made upright may keep its tag. The tag
    decides only where orientation is exactly axial: then the tilt is missing from the geometry.
    """
    long = float(np.ptp(ordered.along_mm))
    allowed = max(TILT_ROUNDING_MM, long * math.tan(math.radians(TILT_DEGREES)))
    is_sheared = float(ordered.beside_mm.max()) > allowed
    tags = [abs(s.tilt_deg) for s in ordered.slices if s.tilt_deg is not None]
    is_axial = abs(ordered.direction[8]) > 1 - 1e-6
    if not is_sheared and not (is_axial and max(tags, default=0.0) > TILT_DEGREES):
        return None
    return _finding(
        "STR-413", "The gantry was tilted, or slices are shifted sideways against each other."
    )


def _spaced(ordered: Stack) -> list[Finding | None]:
    """9, 11, 12. Distances between neighbours along the normal."""
    gaps = np.diff(ordered.along_mm)
    twice = gaps < SAME_PLACE_MM
    found: list[Finding | None] = []
    if twice.any():
        found.append(_finding("STR-415", f"Slices where another one lies: {int(twice.sum())}."))
    gaps = gaps[~twice]
    if gaps.size == 0:
        return found
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() <= max(GAP_TOLERANCE * usual, GAP_ROUNDING_MM):
        return found
    steps = gaps / gaps.min()
    whole = np.round(steps)
    if np.abs(steps - whole).max() <= WHOLE_STEPS and whole.max() >= 2:
        found.append(
            _finding(
                "STR-414",
                f"Slices missing in between: {int((whole - 1).sum())}.",
            )
        )
    else:
        found.append(
            _finding(
                "STR-416",
                f"Distances between slices range from {gaps.min():.3f} to {gaps.max():.3f} mm.",
            )
        )
    return found
