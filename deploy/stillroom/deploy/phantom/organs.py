"""The heart and great vessels of a patient as signed distances, carved so that none overlaps another."""

from dataclasses import dataclass

import numpy as np

from stillroom.deploy.phantom.anatomy import Patient
from stillroom.deploy.phantom.geometry import (
    Array,
    Space,
    Vector,
    blend,
    curve,
    unit,
    vector,
    without,
)

PULMONARY_VALVE = vector(20, -32, 34)
LEFT_ATRIUM = vector(2, 35, 18)
RIGHT_ATRIUM = vector(-40, 8, 2)
BIFURCATION = vector(16, 3, 59)
SMALL = 8.0
"""Reach of details that blend with nothing, mm."""


@dataclass(frozen=True, slots=True)
class Organs:
    """Signed distances (D, H, W) in mm, negative inside.

    Attributes:
        lv, rv, la, ra: Blood in the chambers.
        epicardium: Outside of the left ventricle; myocardium where no blood is.
        outflow_tract: Wall of the passage from left ventricle to valve.
        aorta: Root, ascending and arch; ``descending`` is the rest.
        pulmonary: Trunk and the two main branches.
        cava, lower_cava: Both venae cavae, and the inferior one alone; parts belong to ``ra``.
        veins: Pulmonary veins beyond the part that belongs to ``la``.
        leaflets: Closed aortic valve. ``muscles``: papillary. ``coronaries``, ``calcium``.
        mitral: Plane of the mitral valve, closed.
        outside: Everything of the heart together, blended.
        sac: The pericardium: ``outside`` with its grooves filled.
    """

    lv: Array
    rv: Array
    la: Array
    ra: Array
    epicardium: Array
    outflow_tract: Array
    aorta: Array
    descending: Array
    pulmonary: Array
    cava: Array
    lower_cava: Array
    veins: Array
    leaflets: Array
    muscles: Array
    mitral: Array
    coronaries: Array
    calcium: Array
    outside: Array
    sac: Array


def build_organs(space: Space, p: Patient) -> Organs:
    """Evaluate every organ of the patient on the coordinates of ``space``."""
    height = space.plane(p.valve, p.outflow)
    lv, epicardium, tract, depth = _left_ventricle(space, p, height)
    aorta, descending = _aorta(space, p, height)
    root = np.minimum(aorta, tract)
    rv, pulmonary = _right_heart(space, p, epicardium)
    la, veins = _left_atrium(space, p)
    ra, cava, lower_cava = _right_atrium(space, p)
    # Neighbours touch with a thin wall between them; who yields to whom is fixed here.
    la = without(without(la, epicardium, 1.0), root, 1.5)
    ra = without(without(without(ra, epicardium, 1.2), root, 1.5), la, 1.5)
    across = unit(_rv_centre(p) - RIGHT_ATRIUM)
    tricuspid = space.plane(RIGHT_ATRIUM + 0.47 * (_rv_centre(p) - RIGHT_ATRIUM), across)
    ra, rv = np.maximum(ra, tricuspid), np.maximum(rv, -tricuspid)
    rv = without(rv, root, 1.5)
    pulmonary = without(without(pulmonary, root, 1.8), la, 1.2)
    pulmonary = without(pulmonary, cava, 1.5)
    outside = _together(epicardium, rv, la, ra, aorta, pulmonary)
    return Organs(
        lv=lv,
        rv=rv,
        la=la,
        ra=ra,
        epicardium=epicardium,
        outflow_tract=np.maximum(tract, height),
        aorta=aorta,
        descending=descending,
        pulmonary=pulmonary,
        cava=cava,
        lower_cava=lower_cava,
        veins=veins,
        leaflets=np.maximum(np.abs(height - 6) - 0.6, aorta + 1),
        muscles=_muscles(space, p),
        mitral=np.maximum(np.abs(depth + 0.5) - 0.5, np.maximum(np.minimum(la, lv) - 1, 2 - tract)),
        coronaries=_coronaries(space, p),
        calcium=_calcium(space, p),
        outside=outside,
        sac=blend(outside, space.ellipsoid(vector(-8, 6, 8), (48, 42, 44)), 16),
    )


def _together(*parts: Array) -> Array:
    out = parts[0]
    for part in parts[1:]:
        out = blend(out, part, 10)
    return out


def _left_ventricle(space: Space, p: Patient, height: Array) -> tuple[Array, Array, Array, Array]:
    """Cavity, outer surface, outflow tract, and depth below the mitral plane."""
    radius, length = p.lv
    depth = space.plane(p.base, p.axis)
    centre = p.base + 8 * p.axis
    cup = space.ellipsoid(centre, (length, radius, radius), p.frame)
    shell = space.ellipsoid(centre, (length + p.wall, radius + p.wall, radius + p.wall), p.frame)
    cavity = np.maximum(cup, -depth)
    tract = space.tube(
        np.stack([p.base + 8 * p.axis, p.valve - p.outflow, p.valve + p.outflow]),
        (0.62 * radius, p.annulus, p.annulus),
    )
    lv = np.maximum(blend(cavity, tract, 4), height)
    return lv, np.maximum(shell, -depth - 3), tract, depth


def _rv_centre(p: Patient) -> Vector:
    return p.base + 18 * p.axis + 24 * p.septum


def _right_heart(space: Space, p: Patient, epicardium: Array) -> tuple[Array, Array]:
    """Right ventricle with its outflow, and the pulmonary artery with two branches."""
    centre, valve = _rv_centre(p), PULMONARY_VALVE
    up = unit((0.15, -0.25, 1.0))
    body = space.ellipsoid(centre, (50, p.rv_radius, 35), p.frame)
    path = curve([centre + vector(4, 0, 6), vector(8, -40, 14), valve, valve + 3 * up], 7)
    outflow = space.tube(path, np.linspace(20, p.pulmonary + 1, 7))
    above = space.plane(valve, up)
    rv = np.maximum(without(blend(body, outflow, 8), epicardium, 1.2), above)
    trunk = space.tube(curve([valve - 2 * up, vector(18, -18, 50), BIFURCATION], 6), p.pulmonary)
    right = curve([BIFURCATION, vector(-8, 17, 58), vector(-40, 22, 56), vector(-75, 28, 52)], 7)
    left = curve([BIFURCATION, vector(34, 22, 64), vector(58, 38, 60), vector(85, 46, 50)], 7)
    branches = np.linspace(0.84 * p.pulmonary, 5, 7)
    pulmonary = blend(trunk, space.tube(right, branches), 4)
    pulmonary = blend(pulmonary, space.tube(left, branches), 4)
    return rv, np.maximum(pulmonary, -above)


def _left_atrium(space: Space, p: Patient) -> tuple[Array, Array]:
    """Left atrium with appendage and the mouths of four veins; the veins' further course."""
    s = p.atria[0]
    body = space.ellipsoid(LEFT_ATRIUM, (34 * s, 20 * s, 26 * s))
    neck = np.stack([vector(4, 32, 16), p.base + 2 * p.axis + vector(2, 5, -2)])
    la = blend(body, space.tube(neck, (18, 0.8 * p.lv[0])), 6)
    veins = space.far()
    for mouth, middle, end in (
        ((-20, 40, 30), (-48, 45, 37), (-84, 52, 44)),
        ((-20, 42, 10), (-48, 51, 4), (-84, 60, -4)),
        ((26, 40, 31), (48, 48, 40), (82, 58, 48)),
        ((26, 44, 12), (48, 54, 7), (82, 64, 0)),
    ):
        path = curve([vector(*mouth), vector(*middle), vector(*end)], 7)
        la = blend(la, space.tube(path[:4], (8.5, 7.5, 6.8, 6.2)), 5)
        veins = np.minimum(veins, space.tube(path[3:], (6.2, 5.4, 4.4, 3.4), SMALL))
    tip = curve([vector(26, 27, 26), vector(41, 9, 30), vector(46, -8, 26)], 5)
    return blend(la, space.tube(tip, (9, 9, 8, 7, 4)), 4), veins


def _right_atrium(space: Space, p: Patient) -> tuple[Array, Array, Array]:
    """Right atrium with the first centimetres of both venae cavae; both cavae, the inferior."""
    s = p.atria[1]
    body = space.ellipsoid(RIGHT_ATRIUM, (27 * s, 29 * s, 33 * s))
    tip = curve([vector(-42, -4, 20), vector(-34, -24, 26), vector(-20, -32, 30)], 4)
    body = blend(body, space.tube(tip, (12, 11, 9, 6)), 6)
    upper = curve([vector(-44, 10, 20), vector(-42, 2, 50), vector(-38, 0, 110)], 8)
    lower = curve([vector(-44, 16, -18), vector(-36, 24, -50), vector(-32, 34, -120)], 8)
    lower_cava = space.tube(lower, 12.0)
    cava = np.minimum(space.tube(upper, 9.0), lower_cava)
    near = np.abs(space.plane(vector(0, 0, 1), vector(0, 0, 1))) - 38
    return np.maximum(blend(body, cava, 5), near), cava, lower_cava


def _aorta(space: Space, p: Patient, height: Array) -> tuple[Array, Array]:
    """Root with three sinuses, ascending part and arch; the descending part behind the heart."""
    top = p.valve + 36 * p.outflow
    arch = [p.valve, p.valve + 14 * p.outflow, p.valve + 22 * p.outflow, top]
    arch += [top + vector(1, 1, 22), vector(-8, 2, 98), vector(8, 24, 110), vector(20, 48, 104)]
    path = curve(arch, 16)
    radii = np.interp(
        np.arange(16),
        [0, 2, 4, 7, 11, 15],
        np.array([1.0, 1.06, 0, 0, 0, 0]) * p.annulus
        + np.array([0, 0, 0.94, 1.0, 0.95, 0.8]) * p.aorta,
    )
    aorta = space.tube(path, radii)
    rise, offset, radius = p.sinus
    for angle in p.cusps:
        lobe = p.valve + rise * p.outflow + offset * p.around_root(angle)
        aorta = blend(aorta, space.ellipsoid(lobe, (radius, radius, radius)), 2)
    aorta = np.maximum(aorta, -height)
    down = [vector(20, 48, 104), vector(25, 66, 88), vector(24, 70, 60), vector(20, 70, 0)]
    down += [vector(8, 72, -90), vector(0, 74, -220)]
    descending = space.tube(curve(down, 14), np.linspace(0.8, 0.66, 14) * p.aorta)
    branches = space.far(SMALL)
    for start, end in (
        ((-8, 4, 108), (-24, 2, 150)),
        ((4, 18, 118), (8, 14, 160)),
        ((14, 32, 116), (26, 34, 160)),
    ):
        branches = np.minimum(
            branches, space.tube(np.stack([vector(*start), vector(*end)]), 4.5, SMALL)
        )
    return aorta, np.minimum(without(descending, aorta), without(branches, aorta))


def _muscles(space: Space, p: Patient) -> Array:
    """Two papillary muscles along the free wall of the left ventricle."""
    third, out = p.frame[2], space.far(SMALL)
    for side in (1, -1):
        centre = p.base + 24 * p.axis + (0.8 * side * third - 0.45 * p.septum) * (0.62 * p.lv[0])
        out = np.minimum(out, space.ellipsoid(centre, (12, 4.2, 4.2), p.frame, SMALL))
    return out


def _coronaries(space: Space, p: Patient) -> Array:
    out = space.far(SMALL)
    for path in p.coronary_paths():
        radii = np.linspace(1.1, 0.75, len(path)) * p.coronaries
        out = np.minimum(out, space.tube(path, radii, SMALL))
    return out


def _calcium(space: Space, p: Patient) -> Array:
    out = space.far(SMALL)
    for centre, radii in p.calcium:
        out = np.minimum(out, space.ellipsoid(centre, tuple(radii), reach=SMALL))
    return out
