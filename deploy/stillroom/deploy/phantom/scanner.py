"""How a hospital's scanner renders an anatomy: contrast phase, sharpness, noise, calibration."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from stillroom.deploy.phantom.geometry import Array, Vector

_FWHM = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """A hospital's habits; every case draws its own phase from them.

    Attributes:
        manufacturer, model: Written into the DICOM headers; invented.
        kernel_mm: In-plane sharpness, full width at half maximum.
        slice_mm: Distance of slices as a multiple of the in-plane spacing.
        noise_hu: Standard deviation of the noise.
        grain_mm: Its correlation length, full width at half maximum.
        gain, shift_hu: Calibration error: ``hu * gain + shift``.
        left_hu: ``(mean, sd)`` of the blood in the left heart.
        right: Range of the right heart's enhancement as a share of the left's; above 1 where
            scans start while contrast still flows in.
        tilt_deg: How obliquely slices lie to the patient's axes.
        transfer: DICOM transfer syntax.
    """

    manufacturer: str
    model: str
    kernel_mm: float = 1.4
    slice_mm: float = 1.0
    noise_hu: float = 20.0
    grain_mm: float = 1.6
    gain: float = 1.0
    shift_hu: float = 0.0
    left_hu: tuple[float, float] = (370.0, 45.0)
    right: tuple[float, float] = (0.4, 1.0)
    tilt_deg: float = 0.0
    transfer: str = "explicit"


SCANNERS = {
    "north": Scanner("Borealis Imaging", "BX-64", 1.2, noise_hu=18, right=(0.4, 1.35)),
    "river": Scanner(
        "Meander Medical", "Delta 128", 2.2, 1.0, 14, 2.6, 1.02, 8, (330, 45), (0.08, 0.6), 6.0,
        "implicit",
    ),
    "harbour": Scanner(
        "Anchor Radiology", "Quay One", 0.9, 1.5, 36, 1.1, 0.97, -12, (430, 60), (0.15, 1.2),
        0.0, "rle",
    ),
    "summit": Scanner(
        "Ridge CT", "Col 320", 1.6, 1.0, 26, 1.4, 1.04, 12, (300, 45), (0.1, 0.9), 0.0, "explicit"
    ),
}  # fmt: skip
"""Four invented hospitals, each with its own look."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Densities of one scan in HU before the scanner touches them."""

    left: float
    right: float
    inflow: float
    muscle: float
    liver: float


def draw_phase(scanner: Scanner, rng: np.random.Generator) -> Phase:
    """From early arterial (dim right heart) to fully mixed, as the hospital tends to scan."""
    blood = 42.0
    left = max(200.0, scanner.left_hu[0] + scanner.left_hu[1] * float(rng.standard_normal()))
    right = blood + float(rng.uniform(*scanner.right)) * (left - blood)
    # Contrast arrives through the upper vein: brighter than the chamber it is mixed in.
    inflow = right + float(rng.uniform(0, 300)) * (right > 120)
    muscle = float(np.clip(105 + 12 * rng.standard_normal(), 80, 135))
    return Phase(left, right, inflow, muscle, float(rng.uniform(60, 110)))


def smooth(volume: Array, fwhm_mm: tuple[float, float, float], spacing_mm: Vector) -> Array:
    """Gaussian blur; ``fwhm_mm`` along (z, y, x), ``spacing_mm`` along (x, y, z)."""
    sigma = np.asarray(fwhm_mm) / _FWHM / np.asarray(spacing_mm, float)[::-1]
    return gaussian_filter(volume, np.where(sigma < 0.2, 0, sigma), mode="nearest", truncate=3.0)


def texture(
    rng: np.random.Generator, shape: tuple[int, ...], fwhm_mm: float, spacing_mm: Vector
) -> Array:
    """Correlated noise of unit variance."""
    white = rng.standard_normal(shape, np.float32)
    grain = smooth(white, (fwhm_mm, fwhm_mm, fwhm_mm), spacing_mm)
    return grain / np.float32(max(float(grain.std()), 1e-6))


def scan(hu: Array, scanner: Scanner, spacing_mm: Vector, rng: np.random.Generator) -> Array:
    """Blur, noise and calibration error, clipped to 12-bit CT numbers."""
    profile = max(scanner.kernel_mm, float(spacing_mm[2]))
    out = smooth(hu, (profile, scanner.kernel_mm, scanner.kernel_mm), spacing_mm)
    # Thick slices average noise away; thin ones keep it.
    noise = scanner.noise_hu * texture(rng, hu.shape, scanner.grain_mm, spacing_mm)
    return np.clip(out * scanner.gain + scanner.shift_hu + noise, -1024, 3071)
