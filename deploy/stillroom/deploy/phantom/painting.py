"""A patient on a voxel grid: Hounsfield units, label maps and points, all from one geometry.

``paint`` is deterministic in (patient, scanner, grid, seed). The patient's heart lies at the origin
of the scanner's space; ``Grid.centre_mm`` moves the field of view around it, ``Grid.table_mm`` and
``Grid.tilt_deg`` say how that space lies in the patient's LPS coordinates that files carry.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.deploy.phantom.anatomy import Patient, draw_patient
from stillroom.deploy.phantom.chest import paint_chest
from stillroom.deploy.phantom.deformation import rotation
from stillroom.deploy.phantom.geometry import Array, Space, Vector, vector
from stillroom.deploy.phantom.organs import Organs, build_organs
from stillroom.deploy.phantom.scanner import SCANNERS, Phase, Scanner, draw_phase, scan, texture

CHAMBERS = ("LV", "RV", "LA", "RA", "MYO")
"""Values 1 to 5 of the chamber map; blood of left and right ventricle and atrium, left myocardium."""
VESSELS = ("AO", "PA")
"""Values 1 and 2 of the vessel map: aortic root to the end of the arch, and pulmonary artery."""
Mask = NDArray[np.uint8]
Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie.

    Attributes:
        shape: (D, H, W) voxels.
        spacing_mm: Along (x, y, z) of the image.
        centre_mm: Centre of the field of view relative to the heart, in the scanner's space.
        table_mm: Where the heart lies in LPS.
        tilt_deg: Rotation of the scanner's axes in LPS, about x and half as much about y.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    table_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tilt_deg: float = 0.0

    def axes(self) -> tuple[Vector, Vector, Vector]:
        """Positions of voxel centres along x, y and z in the scanner's space, mm."""
        counts = self.shape[::-1]
        x, y, z = (
            vector(*range(n)) * s + (c - s * (n - 1) / 2)
            for n, s, c in zip(counts, self.spacing_mm, self.centre_mm, strict=True)
        )
        return x, y, z

    @property
    def direction(self) -> Vector:
        """``(3, 3)``: columns are the image's axes in LPS."""
        return rotation(np.radians([self.tilt_deg, self.tilt_deg / 2, 0]))

    def patient_mm(self, points: Vector) -> Vector:
        """``(N, 3)`` points of the scanner's space in LPS."""
        return np.atleast_2d(points) @ self.direction.T + np.asarray(self.table_mm)

    @property
    def origin_mm(self) -> Vector:
        """Centre of voxel (0, 0, 0) in LPS."""
        return self.patient_mm(vector(*(axis[0] for axis in self.axes())))[0]


@dataclass(frozen=True, slots=True)
class Case:
    """One synthetic scan with everything that is true about it.

    Attributes:
        hu: (D, H, W) int16, Hounsfield units.
        chambers, vessels: (D, H, W) uint8, values as in ``CHAMBERS`` and ``VESSELS``.
        calcification, heart: (D, H, W) uint8, 0 or 1.
        points: Names of ``anatomy.POINTS`` to LPS mm; only those inside the field of view.
        spacing_mm: Along (x, y, z).
        origin_mm: Centre of voxel (0, 0, 0), LPS.
        direction: ``(3, 3)``, columns are the image's axes in LPS.
    """

    hu: NDArray[np.int16]
    chambers: Mask
    vessels: Mask
    calcification: Mask
    heart: Mask
    points: dict[str, tuple[float, float, float]]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: Vector = field(default_factory=lambda: np.eye(3))


class _Canvas:
    """Densities under construction."""

    def __init__(self, shape: tuple[int, ...], voxel_mm: float) -> None:
        self.hu = np.full(shape, -1000.0, np.float32)
        self._voxel = np.float32(voxel_mm)

    def put(self, solid: Field, hu: float | Field) -> None:
        """Cover with ``hu`` where ``solid`` is negative; a voxel cut by the surface mixes."""
        touched = np.flatnonzero(solid.ravel() < self._voxel / 2)
        if touched.size == 0:
            return
        flat = self.hu.reshape(-1)
        share = np.minimum(np.float32(0.5) - solid.ravel()[touched] / self._voxel, 1)
        colour = hu.ravel()[touched] if isinstance(hu, np.ndarray) else np.float32(hu)
        flat[touched] += share * (colour - flat[touched])


def paint(
    patient: Patient, scanner: Scanner, grid: Grid, seed: int, *, cropped: bool = True
) -> Case:
    """Voxelise a patient.

    Args:
        patient: See ``draw_patient``.
        scanner: Its look and habits; the contrast phase is drawn from it.
        grid: Where the voxels lie.
        seed: Of phase, texture and noise.
        cropped: False evaluates every solid everywhere: slower, same bytes (a test holds it).
    """
    rng = np.random.default_rng([seed, 2])
    phase = draw_phase(scanner, rng)
    spacing = vector(*grid.spacing_mm)
    voxel = float(np.cbrt(spacing.prod()))
    body, heart = _spaces(patient, grid, voxel, cropped=cropped)
    organs = build_organs(heart, patient)
    grain, drift, swirl = (texture(rng, heart.shape, mm, spacing) for mm in (5.0, 11.0, 15.0))
    canvas = _Canvas(heart.shape, voxel)
    lungs = paint_chest(canvas.put, body, patient, organs.sac)
    # Lung vessels: curves along which two smooth random fields vanish together.
    canvas.put(np.maximum(np.hypot(drift, swirl) * 5 - 2.0, lungs + 2), 40.0)
    _paint_heart(canvas, organs, patient, phase, grain, swirl)
    solid = np.clip((canvas.hu + 300) / 200, 0, 1)
    hu = scan((canvas.hu + 7 * solid * grain).astype(np.float32), scanner, spacing, rng)
    chambers, vessels = _label(organs)
    return Case(
        np.rint(hu).astype(np.int16),
        chambers,
        vessels,
        _plaques(organs, voxel),
        (organs.outside < 0).astype(np.uint8),
        _visible_points(patient, grid),
        grid.spacing_mm,
        _triple(grid.origin_mm),
        grid.direction,
    )


def _spaces(patient: Patient, grid: Grid, voxel_mm: float, *, cropped: bool) -> tuple[Space, Space]:
    """The chest's and the heart's own coordinates on the grid; both share the same bends."""
    axes = grid.axes()
    bends = patient.heart.bends(*axes)
    body, heart = (d.anatomy_grid(*axes, bends) for d in (patient.thorax, patient.heart))
    return Space(body, voxel_mm, cropped=cropped), Space(heart, voxel_mm, cropped=cropped)


def _paint_heart(
    canvas: _Canvas, o: Organs, p: Patient, phase: Phase, grain: Array, swirl: Array
) -> None:
    """Walls first, then blood, then what swims in it. Later solids cover earlier ones."""
    left, right, muscle, put = phase.left, phase.right, phase.muscle, canvas.put
    put(o.veins - 1, 20.0)
    put(o.veins, left)
    for thin in (o.rv - 2.5, o.la - 1.6, o.ra - 1.8, o.outflow_tract - 2):
        put(thin, muscle)
    for wall in (o.aorta, o.pulmonary, o.descending, o.cava):
        put(wall - 1.5, 55.0)
    put(o.epicardium, muscle)
    put(o.descending, 0.97 * left)
    put(o.cava, phase.inflow)
    put(o.lower_cava, 60 + 0.35 * right)  # blood from below comes late
    # Unmixed blood: the brighter the inflow, the more it streaks.
    put(o.ra, right + np.float32(0.5 * (phase.inflow - right)) * (1 + swirl))
    rough = np.maximum(grain, 0) * 1.2
    put(o.rv + rough, right)
    put(o.pulmonary, 1.02 * right)
    put(o.la, 1.02 * left)
    put(o.lv + rough, left)
    put(o.aorta, left)
    put(np.maximum(o.muscles, o.lv + 0.5), muscle)
    put(o.leaflets, 170.0)
    put(o.mitral, 150.0)
    put(o.coronaries, 0.95 * left)
    put(o.calcium, p.calcium_hu)


def _label(o: Organs) -> tuple[Mask, Mask]:
    chambers = np.zeros(o.lv.shape, np.uint8)
    vessels = np.zeros(o.lv.shape, np.uint8)
    chambers[o.epicardium < 0] = 5
    for value, solid in ((4, o.ra), (2, o.rv), (3, o.la), (1, o.lv)):
        chambers[solid < 0] = value
    vessels[o.pulmonary < 0] = 2
    vessels[o.aorta < 0] = 1
    # No voxel belongs to both maps; the great vessels win where walls are thinner than a voxel.
    chambers[vessels > 0] = 0
    return chambers, vessels


def _plaques(o: Organs, voxel_mm: float) -> Mask:
    """A plaque thinner than a voxel still marks the voxel it dominates."""
    return (o.calcium < 0.3 * max(0.0, voxel_mm - 2)).astype(np.uint8)


def _visible_points(patient: Patient, grid: Grid) -> dict[str, tuple[float, float, float]]:
    named = patient.points()
    world = patient.heart.world_at(np.stack(list(named.values())))
    low, high = (np.array([axis[k] for axis in grid.axes()]) for k in (0, -1))
    inside = np.logical_and(world >= low, world <= high)
    placed = grid.patient_mm(world)
    return {
        name: _triple(mm) for name, mm, ok in zip(named, placed, inside, strict=True) if ok.all()
    }


def _triple(mm: Vector) -> tuple[float, float, float]:
    return float(mm[0]), float(mm[1]), float(mm[2])


def place_grid(
    scanner: Scanner, seed: int, *, size: int = 64, spacing_mm: float = 3.0, offset_mm: float = 25.0
) -> Grid:
    """A field of view near the heart, nowhere twice: technologists never centre perfectly.

    Args:
        scanner: Its slices may be thicker than the in-plane spacing, and oblique.
        seed: Of the offset and the table position.
        size: Voxels in plane; as many slices as cover the same length along z.
        spacing_mm: In plane.
        offset_mm: Largest distance of the centre from the heart along each axis; sizes
            beyond the heart (full chest) profit from more, small ones from less.
    """
    rng = np.random.default_rng([seed, 3])
    depth = max(1, round(size / scanner.slice_mm))
    centre = rng.uniform(-offset_mm, offset_mm, 3).round(2)
    table = (rng.uniform(-20, 20), rng.uniform(-190, -140), rng.uniform(-400, -100))
    return Grid(
        (depth, size, size),
        (spacing_mm, spacing_mm, spacing_mm * scanner.slice_mm),
        _triple(centre),
        _triple(np.round(table, 2)),
        scanner.tilt_deg,
    )


def make_case(
    seed: int,
    scanner: str = "north",
    *,
    size: int = 64,
    spacing_mm: float = 3.0,
    offset_mm: float = 25.0,
) -> Case:
    """Draw and paint one patient: the same arguments give the same bytes.

    Args:
        seed: Of everything.
        scanner: A key of ``SCANNERS``.
        size: Voxels in plane.
        spacing_mm: In plane; ``size * spacing_mm`` of 192 holds the heart, 400 the whole chest.
        offset_mm: See ``place_grid``.
    """
    style = SCANNERS[scanner]
    grid = place_grid(style, seed, size=size, spacing_mm=spacing_mm, offset_mm=offset_mm)
    return paint(draw_patient(seed), style, grid, seed)
