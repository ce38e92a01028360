"""What surrounds the heart: chest wall, ribs, spine, lungs, airways, liver, table. Hounsfield units only."""

import math
from collections.abc import Callable

import numpy as np

from stillroom.deploy.phantom.anatomy import Patient
from stillroom.deploy.phantom.geometry import Array, Space, blend, curve, vector

AIR, LUNG, FAT, MUSCLE, MARROW, CORTEX = -1000.0, -850.0, -100.0, 55.0, 180.0, 480.0
Put = Callable[[Array, float], None]
"""Paint a solid (signed distance) with a density (HU), partial volume included."""


def paint_chest(put: Put, space: Space, p: Patient, heart: Array) -> Array:
    """Paint everything around the heart; ``heart`` is its sac (signed distance).

    Returns:
        Signed distance of the air-filled lungs, for their texture.
    """
    wide, deep = p.chest
    middle = -12.0
    skin = space.cylinder((middle, 36), (170 * wide, 128 * deep))
    _table_and_arms(put, space, p, 36 + 128 * deep)
    put(skin, FAT)
    put(skin + 11, MUSCLE)
    put(skin + 24, FAT)
    cavity = space.cylinder((middle, 26), (140 * wide, 92 * deep))
    put(cavity - 14, MUSCLE)
    _ribs_and_sternum(put, space, p, cavity)
    put(cavity, LUNG)
    behind = space.cylinder((middle, 112), (42, 42))
    # The mediastinum: fat around the heart, a column in front of the spine, and behind the sternum.
    column = blend(space.cylinder((-2, 72), (38, 24)), behind, 20)
    stalk = space.ellipsoid(vector(-8, 14, 95), (40, 44, 60))
    front = space.cylinder((middle, -60), (20, 16))
    middle_space = np.minimum(blend(blend(heart - p.fat, column, 14), stalk, 14), front)
    fat = np.maximum(middle_space, cavity - 3)
    put(fat, -95.0)
    put(np.maximum(behind, cavity - 3), MUSCLE)
    abdomen = _below_diaphragm(put, space, p, np.maximum(cavity, 3 - heart))
    _spine(put, space, middle)
    _airways(put, space)
    return np.maximum(cavity, np.maximum(-fat, -abdomen))


def _table_and_arms(put: Put, space: Space, p: Patient, back: float) -> None:
    y = space.coordinates[1] - np.float32(back + 4)
    bow = (space.coordinates[0] + 12) ** 2 / np.float32(1500)
    shell = np.abs(y + bow - 6) - 3
    put(np.maximum(shell, np.abs(space.coordinates[0] + 12) - 200), -650.0)
    if p.arms_down:
        for side in (-1, 1):
            arm = space.cylinder((-12 + side * (170 * p.chest[0] + 50), 52), (44, 48))
            put(arm, FAT)
            put(arm + 10, MUSCLE)
            put(arm + 32, CORTEX)


def _ribs_and_sternum(put: Put, space: Space, p: Patient, cavity: Array) -> None:
    x, y, z = space.coordinates
    pitch, phase = p.ribs
    # Ribs fall from the spine to the front, so their height depends on where around the chest.
    wave = np.cos((z + phase + 0.5 * y + 0.12 * np.abs(x + 12)) * np.float32(2 * math.pi / pitch))
    shell = np.abs(cavity - 7) - 4.5
    rib = np.maximum(shell, (0.35 - wave) * (pitch / 4))
    put(rib, 320.0)
    put(rib + 2, MARROW)
    sternum = space.cylinder((-12, -66 * p.chest[1] - 4), (17, 6))
    put(sternum, 420.0)
    put(sternum + 2.5, 150.0)


def _spine(put: Put, space: Space, middle: float) -> None:
    z = space.coordinates[2]
    body = space.cylinder((middle, 99), (19, 16))
    put(body, 420.0)
    put(body + 2.5, 190.0)
    disc = (np.float32(0.86) - np.cos(z * np.float32(2 * math.pi / 29))) * 9
    put(np.maximum(body, disc), 85.0)
    for side in (-1, 1):
        put(space.cylinder((middle + 13 * side, 120), (6, 11)), 350.0)
    canal = space.cylinder((middle, 122), (9, 8))
    put(canal, 30.0)
    put(space.cylinder((middle, 142), (4, 14)), 320.0)
    put(space.cylinder((2, 61), (7.5, 5)), 40.0)  # oesophagus


def _airways(put: Put, space: Space) -> None:
    carina = vector(-8, 40, 74)
    trachea = np.stack([vector(-8, 34, 230), carina])
    right = curve([carina, vector(-30, 44, 54), vector(-58, 50, 34)], 5)
    left = curve([carina, vector(14, 46, 56), vector(46, 54, 38)], 5)
    tree = space.tube(trachea, 8.0)
    for path, radius in ((right, 6.5), (left, 5.5)):
        tree = np.minimum(tree, space.tube(path, np.linspace(radius, 3.5, 5)))
    put(tree - 1.5, 20.0)
    put(tree, -980.0)


def _below_diaphragm(put: Put, space: Space, p: Patient, room: Array) -> Array:
    low = p.liver + 14
    liver = space.ellipsoid(vector(-72, 10, -120 + low), (86, 86, 72))
    # The heart rests on the middle of the diaphragm.
    liver = np.minimum(liver, space.ellipsoid(vector(-6, -4, -122 + low), (84, 84, 68)))
    # Below the dome the abdomen fills the whole cavity.
    liver = np.minimum(
        liver, np.maximum(space.coordinates[2] + (100 - low), space.coordinates[0] - 20)
    )
    left = space.ellipsoid(vector(52, 4, -128 + low), (82, 84, 60))
    left = np.minimum(left, space.coordinates[2] + (112 - low))
    inside = room - 1
    put(np.maximum(left, inside), -80.0)
    put(np.maximum(space.ellipsoid(vector(48, -6, -122 + low), (60, 52, 48)), inside), 40.0)
    put(np.maximum(space.ellipsoid(vector(56, -30, -112 + low), (26, 18, 22)), inside), -950.0)
    put(np.maximum(liver, inside), 90.0)
    put(np.maximum(space.ellipsoid(vector(95, 66, -120 + low), (34, 40, 50)), inside), 120.0)
    return np.minimum(np.maximum(liver, inside), np.maximum(left, inside))
