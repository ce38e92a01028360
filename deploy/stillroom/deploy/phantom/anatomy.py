"""One synthetic patient: every random choice about the anatomy, and the named points that follow.

Pure and seeded. Millimetres in LPS (x to the patient's left, y to the back, z to the head), the
origin near the middle of the heart. Sizes are means of normal adult hearts in diastole with their
usual spread; they are meant to look right, not to be a reference.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillroom.deploy.phantom.deformation import Deformation, draw_bends, rotation
from stillroom.deploy.phantom.geometry import Vector, curve, perpendicular, unit, vector

HINGES = ("NCC", "RCC", "LCC")
"""Lowest points of the non-coronary, right and left coronary cusps."""
POINTS = (*HINGES, "LCA", "RCA", "MS")
"""Hinge points, ostia of the left and right coronary artery, membranous septum."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Everything individual about one body. Lengths in mm, angles in radians.

    Attributes:
        seed: What the patient was drawn from.
        axis: Unit vector from the base of the left ventricle to its apex.
        base: Centre of the mitral plane.
        lv: ``(radius, length)`` of the left ventricular cavity.
        wall: Thickness of the left ventricular myocardium.
        rv_radius: Of the right ventricle, away from the septum.
        atria: ``(left, right)`` scale factors.
        valve: Centre of the aortic annulus.
        outflow: Unit vector of the aortic root, upwards.
        annulus, aorta, pulmonary: Radii of aortic annulus, ascending aorta, pulmonary trunk.
        cusps: Angle of each cusp from anterior towards the left, in the order of ``HINGES``.
        ostia: ``(left, right)`` height of the coronary ostia above the annulus.
        coronaries: Radius of the coronary arteries.
        calcium: ``(centre, radii)`` of each calcified plaque.
        calcium_hu: Its density.
        fat: Thickness of the fat around the heart.
        chest: ``(left-right, front-back)`` scale of the thorax around the heart.
        ribs: ``(pitch, phase)`` of the ribs along z.
        liver: Height of the diaphragm relative to the average.
        arms_down: Whether the arms lie beside the chest.
        heart: From scanner to the heart's own space.
        thorax: From scanner to the space of the chest wall.
    """

    seed: int
    axis: Vector
    base: Vector
    lv: tuple[float, float]
    wall: float
    rv_radius: float
    atria: tuple[float, float]
    valve: Vector
    outflow: Vector
    annulus: float
    aorta: float
    pulmonary: float
    cusps: tuple[float, float, float]
    ostia: tuple[float, float]
    coronaries: float
    calcium: tuple[tuple[Vector, Vector], ...]
    calcium_hu: float
    fat: float
    chest: tuple[float, float]
    ribs: tuple[float, float]
    liver: float
    arms_down: bool
    heart: Deformation
    thorax: Deformation

    @property
    def septum(self) -> Vector:
        """Unit vector from the left to the right ventricle, at right angles to ``axis``."""
        return perpendicular((-0.78, -0.60, -0.08), self.axis)

    @property
    def frame(self) -> Vector:
        """Rows: long axis, towards the right ventricle, and the third direction."""
        return np.stack([self.axis, self.septum, np.cross(self.axis, self.septum)])

    def around_root(self, angle: float) -> Vector:
        """Unit vector in the annulus plane, ``angle`` from anterior towards the left."""
        front = perpendicular((0, -1, 0), self.outflow)
        left = np.cross(front, self.outflow)
        left = left if left[0] > 0 else -left
        return math.cos(angle) * front + math.sin(angle) * left

    @property
    def sinus(self) -> tuple[float, float, float]:
        """Height, offset from the root's axis and radius of the spheres that form the sinuses."""
        return 0.75 * self.annulus, 0.52 * self.annulus, 0.84 * self.annulus

    def points(self) -> dict[str, Vector]:
        """Every name of ``POINTS`` in the heart's own space, before the deformation."""
        toward = dict(zip(HINGES, (self.around_root(a) for a in self.cusps), strict=True))
        found = {name: self.valve + d * self.annulus for name, d in toward.items()}
        height, offset, radius = self.sinus
        for name, cusp, h in zip(("LCA", "RCA"), ("LCC", "RCC"), self.ostia, strict=True):
            # Where a horizontal ray through the sinus leaves its sphere.
            reach = offset + math.sqrt(max(radius**2 - (h - height) ** 2, 1.0))
            found[name] = self.valve + self.outflow * h + toward[cusp] * reach
        between = unit(toward["NCC"] + toward["RCC"])
        found["MS"] = self.valve - 4 * self.outflow + between * self.annulus
        return {name: found[name] for name in POINTS}

    def coronary_paths(self) -> tuple[Vector, Vector, Vector]:
        """Centre lines ``(N, 3)``: left anterior descending, circumflex, right coronary artery."""
        p, a, (radius, length) = self.points(), self.axis, self.lv
        out = radius + self.wall + 3.5
        up = perpendicular((0, 0, 1), a)
        groove = unit(0.75 * self.septum + 0.8 * up)
        left = p["LCA"] + 9 * self.around_root(self.cusps[2]) + vector(3, -2, 0)
        descending = [p["LCA"], left, self.base + 8 * a + groove * out]
        descending += [self.base + 28 * a + groove * (out - 2)]
        descending += [self.base + length * a + groove * (0.55 * radius + self.wall + 2)]
        circumflex = [left, self.base + 2 * a + unit(up - 0.3 * self.septum) * out]
        circumflex += [self.base + 2 * a + unit(0.2 * up - self.septum) * out]
        circumflex += [self.base + 8 * a - unit(0.6 * up + self.septum) * out]
        right = [p["RCA"], p["RCA"] + 10 * self.around_root(self.cusps[1]), vector(-34, -24, 14)]
        right += [vector(-44, -20, -12), vector(-30, -4, -34)]
        return curve(descending, 14), curve(circumflex, 12), curve(right, 14)


def _spread(rng: np.random.Generator, mean: float, sd: float) -> float:
    """Normal, cut at two standard deviations: no monsters."""
    return mean + sd * float(np.clip(rng.standard_normal(), -2, 2))


def _deformations(rng: np.random.Generator) -> tuple[Deformation, Deformation]:
    """The heart turns, scales and shifts within the chest; both share the same bends."""
    bends = draw_bends(rng, _spread(rng, 7.0, 1.2))
    body = _spread(rng, 1.0, 0.07)
    angles = np.clip(rng.standard_normal(3), -2, 2) * 0.13
    scale = body * (1 + np.clip(rng.standard_normal(3), -2, 2) * 0.05)
    shift = np.clip(rng.standard_normal(3), -2, 2) * 5
    heart = Deformation(np.diag(1 / scale) @ rotation(angles), shift, bends)
    lean = np.clip(rng.standard_normal(3), -2, 2) * 0.03
    thorax = Deformation(rotation(lean) / body, 0.5 * shift, bends)
    return heart, thorax


def _calcium(rng: np.random.Generator, patient: Patient) -> tuple[tuple[Vector, Vector], ...]:
    """Plaques on the aortic valve (most), in the wall of the aorta and along the left coronary."""
    plaques: list[tuple[Vector, Vector]] = []
    left = patient.coronary_paths()[0]
    for _ in range(int(rng.poisson(5)) + 1):
        place, ring = rng.uniform(), patient.around_root(rng.uniform(0, 2 * math.pi))
        if place < 0.6:
            height, distance = rng.uniform(0, 8), patient.annulus * rng.uniform(0.55, 1.0)
        elif place < 0.8:
            height, distance = rng.uniform(20, 34), patient.aorta * 0.97
        else:
            height, distance = 0.0, 0.0
        centre = patient.valve + patient.outflow * height + ring * distance
        if place >= 0.8:
            centre = left[int(rng.integers(3, 12))] + vector(0, 0, 1)
        plaques.append((centre, rng.uniform((1.5, 1.2, 1.2), (4.0, 3.0, 3.0))))
    return tuple(plaques)


def draw_patient(seed: int) -> Patient:
    """Draw one patient; the same seed gives the same patient everywhere."""
    rng = np.random.default_rng([seed, 1])
    n = lambda mean, sd: _spread(rng, mean, sd)  # noqa: E731 - forty draws read better this way
    heart, thorax = _deformations(rng)
    turn = n(0, 0.2)
    fields: dict[str, Any] = {
        "seed": seed,
        "axis": unit((n(0.62, 0.08), n(-0.58, 0.08), n(-0.50, 0.10))),
        "base": vector(12, 0, 2),
        "lv": (n(23.5, 2.6), n(52, 5)),
        "wall": n(10, 1.6),
        "rv_radius": n(33, 3.5),
        "atria": (n(1, 0.12), n(1, 0.12)),
        "valve": vector(n(-3, 1), n(-4, 1), n(17, 1.5)),
        "outflow": unit((n(-0.38, 0.05), n(-0.22, 0.05), n(0.9, 0.03))),
        "annulus": n(12.2, 1.1),
        "aorta": n(15.5, 1.9),
        "pulmonary": n(12.5, 1.3),
        "cusps": (turn - 2.27, turn - 0.17, turn + 1.92),
        "ostia": (n(13, 1.4), n(14, 1.6)),
        "coronaries": n(2.0, 0.25),
        "calcium": (),
        "calcium_hu": float(rng.uniform(700, 1300)),
        "fat": float(rng.uniform(2, 9)),
        "chest": (n(1, 0.06), n(1, 0.06)),
        "ribs": (n(27, 1.5), float(rng.uniform(0, 27))),
        "liver": n(0, 9),
        "arms_down": bool(rng.uniform() < 0.3),
        "heart": heart,
        "thorax": thorax,
    }
    bare = Patient(**fields)
    return Patient(**{**fields, "calcium": _calcium(rng, bare)})
