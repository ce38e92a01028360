"""Axial sections of phantoms as arrays: what experiments on slices learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from stillroom.deploy.phantom.painting import Case, make_case


@dataclass(frozen=True, slots=True)
class Sections:
    """Slices of some patients.

    Attributes:
        hu: ``(N, H, W)`` int16, Hounsfield units.
        chambers, vessels: ``(N, H, W)`` uint8, values as in ``painting``.
        patients: ``(N,)`` int64, the seed that each slice's patient was drawn from.
    """

    hu: NDArray[np.int16]
    chambers: NDArray[np.uint8]
    vessels: NDArray[np.uint8]
    patients: NDArray[np.int64]

    def of(self, patients: Iterable[int]) -> "Sections":
        """The slices of ``patients`` alone: splits are between patients, never between slices."""
        chosen = np.isin(self.patients, list(patients))
        return Sections(
            self.hu[chosen], self.chambers[chosen], self.vessels[chosen], self.patients[chosen]
        )


def sections(
    patients: Iterable[int], scanner: str, *, each: int, size: int = 64, spacing_mm: float = 3.0
) -> Sections:
    """Evenly spaced slices through the heart of every patient; the same arguments, the same bytes.

    Args:
        patients: Seeds of patients.
        scanner: A key of ``SCANNERS``.
        each: Slices per patient.
        size: Pixels along both sides.
        spacing_mm: Of pixels.
    """
    found: list[Sections] = []
    for seed in patients:
        case = _case(seed, scanner, size, spacing_mm)
        there = np.flatnonzero(((case.chambers > 0) | (case.vessels > 0)).any((1, 2)))
        picks = there[np.linspace(0, len(there) - 1, each + 2)[1:-1].round().astype(int)]
        names = np.full(each, seed, np.int64)
        found.append(Sections(case.hu[picks], case.chambers[picks], case.vessels[picks], names))
    return Sections(
        np.concatenate([one.hu for one in found]),
        np.concatenate([one.chambers for one in found]),
        np.concatenate([one.vessels for one in found]),
        np.concatenate([one.patients for one in found]),
    )


@cache
def _case(seed: int, scanner: str, size: int, spacing_mm: float) -> Case:
    return make_case(seed, scanner, size=size, spacing_mm=spacing_mm)
