"""Working copies: what recipes learn from. On the site's own disk, without any patient tag.

One folder per case, named by a keyed hash (see ``intake.catalogue``)::

    cases/<id>/image.npy            (D, H, W) int16, Hounsfield units, working grid
    cases/<id>/case.json            CaseInfo
    cases/<id>/mask.<label>.npy     (D, H, W) uint8, true labels, 0 = background
    cases/<id>/pseudo.<label>.npy   (D, H, W) uint8, written by the pseudolabel recipe
    cases/<id>/pseudo.<label>.json  Provenance of that file

Every file is written beside its final name and renamed, so a crash leaves the old file or the
new one, never half of either. ``case.json`` is written last: a folder without it is not a case.

Axes: arrays are (D, H, W) = (z, y, x); millimetres are LPS (DICOM PS3.3 C.7.6.2); the grid is
axis-aligned, so the centre of voxel (k, j, i) lies at ``origin_mm + (i, j, k) * spacing_mm``.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]
"""Millimetres (x, y, z) in LPS."""


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """What is known of one working copy.

    Attributes:
        id: Keyed hash; says nothing about the patient.
        shape: (D, H, W) in voxels.
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0), LPS.
        masks: Mask labels with a true label here.
        points: Point labels with a true label here: label -> name -> mm, None where the
            annotator marked the point as not visible.
        roi_mm: ``(low, high)`` corners of a box around the heart (LPS mm) given by the site or
            found by a ``localise`` stage; None when unknown.
        bags: Labels of the whole scan that are true here: label -> class.
    """

    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: Point
    masks: tuple[str, ...] = ()
    points: Mapping[str, Mapping[str, Point | None]] = field(default_factory=dict)
    roi_mm: tuple[Point, Point] | None = None
    bags: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> frozenset[str]:
        """Label types truly annotated in this case."""
        return frozenset(self.masks) | frozenset(self.points) | frozenset(self.bags)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a pseudo-label came from.

    Attributes:
        teacher_sha256: Digest of the teacher's weights.
        stage: The ``pseudolabel`` stage that wrote it.
        complete: Filter verdict: every class or point was found. Incomplete ones are not used.
        missing: How many classes or points were not found.
        written_at: Seconds since the epoch.
        expires_at: After this it is deleted rather than used.
    """

    teacher_sha256: str
    stage: str
    complete: bool
    missing: int
    written_at: float
    expires_at: float


class CaseStore:
    """The working copies of one site. One writer at a time: the runner or the CLI."""

    def __init__(self, root: Path) -> None:
        self.root = root / "cases"

    def ids(self) -> list[str]:
        """Identifiers of complete cases, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/case.json"))

    def info(self, case_id: str) -> CaseInfo:
        """What is known of a case."""
        raw = json.loads((self.root / case_id / "case.json").read_text("utf-8"))
        return CaseInfo(
            id=raw["id"],
            shape=tuple(raw["shape"]),
            spacing_mm=tuple(raw["spacing_mm"]),
            origin_mm=tuple(raw["origin_mm"]),
            masks=tuple(raw["masks"]),
            points={
                label: {name: None if mm is None else _point(mm) for name, mm in named.items()}
                for label, named in raw["points"].items()
            },
            roi_mm=None
            if raw["roi_mm"] is None
            else (_point(raw["roi_mm"][0]), _point(raw["roi_mm"][1])),
            # Copies of an earlier release know no such labels.
            bags=dict(raw.get("bags", {})),
        )

    def image(self, case_id: str) -> NDArray[np.int16]:
        """Hounsfield units, (D, H, W)."""
        return self._array(case_id, "image.npy")

    def mask(self, case_id: str, label: str) -> NDArray[np.uint8]:
        """A true mask, (D, H, W); FileNotFoundError when the case has none."""
        return self._array(case_id, f"mask.{label}.npy")

    def pseudo(self, case_id: str, label: str) -> NDArray[np.uint8] | None:
        """A usable pseudo-label, (D, H, W); None when absent, incomplete or expired.

        An expired one is deleted here, so it cannot be used by mistake later.
        """
        provenance = self.provenance(case_id, label)
        if provenance is None or not provenance.complete:
            return None
        if provenance.expires_at < time.time():
            self.drop_pseudo(case_id, label)
            return None
        return self._array(case_id, f"pseudo.{label}.npy")

    def provenance(self, case_id: str, label: str) -> Provenance | None:
        """Where a pseudo-label came from; None when there is none."""
        path = self.root / case_id / f"pseudo.{label}.json"
        if not path.exists():
            return None
        return Provenance(**json.loads(path.read_text("utf-8")))

    def write_case(
        self, info: CaseInfo, image: NDArray[np.int16], masks: Mapping[str, NDArray[np.uint8]]
    ) -> None:
        """Add or replace a working copy; its pseudo-labels are dropped, for they may not fit."""
        folder = self.root / info.id
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("pseudo.*"):
            stale.unlink()
        self._save(folder / "image.npy", image)
        for label, mask in masks.items():
            self._save(folder / f"mask.{label}.npy", mask)
        self._write_json(folder / "case.json", asdict(info))

    def write_info(self, info: CaseInfo) -> None:
        """Replace what is known of a case, e.g. after its heart was located."""
        self._write_json(self.root / info.id / "case.json", asdict(info))

    def write_pseudo(
        self, case_id: str, label: str, mask: NDArray[np.uint8], provenance: Provenance
    ) -> None:
        """Store a pseudo-label with where it came from.

        The array goes first: a crash between the two leaves an array that nothing refers to,
        never a provenance that speaks of another array.
        """
        folder = self.root / case_id
        (folder / f"pseudo.{label}.json").unlink(missing_ok=True)
        self._save(folder / f"pseudo.{label}.npy", mask)
        self._write_json(folder / f"pseudo.{label}.json", asdict(provenance))

    def drop_pseudo(self, case_id: str, label: str) -> None:
        """Delete a pseudo-label."""
        for suffix in ("json", "npy"):
            (self.root / case_id / f"pseudo.{label}.{suffix}").unlink(missing_ok=True)

    def _array(self, case_id: str, name: str) -> NDArray[Any]:
        return np.load(self.root / case_id / name, allow_pickle=False)

    def _save(self, path: Path, array: NDArray[Any]) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        os.replace(temporary, path)

    def _write_json(self, path: Path, value: Any) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value), "utf-8")
        os.replace(temporary, path)


def _point(raw: list[float]) -> Point:
    x, y, z = raw
    return (x, y, z)
