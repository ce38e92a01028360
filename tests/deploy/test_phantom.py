"""The phantom's promises: repeatable, plausible, varied, and voxels that agree with points."""

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, map_coordinates

from stillroom.deploy.phantom.anatomy import HINGES, POINTS, draw_patient
from stillroom.deploy.phantom.geometry import REACH, Space, blend, vector
from stillroom.deploy.phantom.painting import (
    CHAMBERS,
    VESSELS,
    Case,
    Grid,
    make_case,
    paint,
    place_grid,
)
from stillroom.deploy.phantom.scanner import SCANNERS

MILLILITRES = {
    "LV": (30, 220), "RV": (40, 300), "LA": (40, 220), "RA": (35, 260), "MYO": (40, 260),
    "AO": (20, 220), "PA": (15, 120),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """One case per scanner and then some, at 3 mm."""
    return [make_case(seed, list(SCANNERS)[seed % 4], offset_mm=15) for seed in range(6)]


def voxel_of(case: Case, mm: tuple[float, float, float]) -> Any:
    """Continuous (z, y, x) index of an LPS point."""
    ijk = (np.asarray(mm) - case.origin_mm) @ case.direction / np.asarray(case.spacing_mm)
    return ijk[::-1]


def test_same_seed_same_bytes() -> None:
    """A case is a function of its arguments."""
    first, again, other = (make_case(seed, "river", size=24, spacing_mm=8) for seed in (5, 5, 6))

    for name in ("hu", "chambers", "vessels", "calcification", "heart"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.points == again.points
    assert first.origin_mm == again.origin_mm
    assert first.hu.tobytes() != other.hu.tobytes()
    assert first.points != other.points


def test_every_structure_has_a_plausible_volume(cases: list[Case]) -> None:
    """Millilitres of chambers and vessels lie in generous adult ranges in every case."""
    for case in cases:
        voxel = float(np.prod(case.spacing_mm)) / 1000
        for names, mask in ((CHAMBERS, case.chambers), (VESSELS, case.vessels)):
            for value, name in enumerate(names, 1):
                low, high = MILLILITRES[name]
                assert low < (mask == value).sum() * voxel < high, name
        assert case.calcification.any()
        assert set(case.points) == set(POINTS)
        assert case.heart[case.chambers > 0].mean() > 0.95


def test_labels_show_what_the_scan_shows(cases: list[Case]) -> None:
    """Contrast in the left heart and aorta is brighter than myocardium, lung darker than all."""
    for case in cases:
        mean = [float(np.median(case.hu[case.chambers == value])) for value in range(1, 6)]
        assert mean[0] > mean[4] + 80
        assert mean[2] > mean[4] + 80
        assert np.median(case.hu[case.vessels == 1]) > mean[4] + 80
        assert 60 < mean[4] < 170
        assert (case.hu < -700).mean() > 0.1


def test_no_voxel_has_two_labels(cases: list[Case]) -> None:
    """Chamber and vessel maps exclude each other."""
    assert not any(((c.chambers > 0) & (c.vessels > 0)).any() for c in cases)


def test_points_lie_where_the_labels_say(cases: list[Case]) -> None:
    """Hinge points touch both left ventricle and aorta within 3 mm, ostia touch the aorta."""
    for case in cases:
        step = case.spacing_mm[::-1]
        to_aorta, to_lv = (
            distance_transform_edt(~mask, sampling=step)
            for mask in (case.vessels == 1, case.chambers == 1)
        )
        # A distance to the centre of the nearest labelled voxel may exceed that to its face.
        slack = 0.5 * float(np.linalg.norm(step))
        for name in HINGES:
            at = voxel_of(case, case.points[name])[:, None]
            assert map_coordinates(to_aorta, at, order=1)[0] < 3 + slack
            assert map_coordinates(to_lv, at, order=1)[0] < 3 + slack
        for name in ("LCA", "RCA"):
            at = voxel_of(case, case.points[name])[:, None]
            assert map_coordinates(to_aorta, at, order=1)[0] < 3 + slack


def test_cusps_and_ostia_are_on_their_sides() -> None:
    """Right cusp in front, left cusp to the left, non-coronary cusp to the right and behind."""
    for seed in range(20):
        p = draw_patient(seed).points()
        assert p["RCC"][1] < min(p["LCC"][1], p["NCC"][1])
        assert p["LCC"][0] > max(p["RCC"][0], p["NCC"][0])
        assert p["LCA"][2] > p["LCC"][2]
        assert p["RCA"][2] > p["RCC"][2]


def test_patients_differ() -> None:
    """No two of forty hearts share their size, direction or valve."""
    patients = [draw_patient(seed) for seed in range(40)]

    assert np.std([p.lv[0] for p in patients]) > 1
    assert np.std([p.heart.shift[0] for p in patients]) > 2
    angles = [np.degrees(np.arccos(np.clip(p.axis @ patients[0].axis, -1, 1))) for p in patients]
    assert max(angles) > 8
    assert len({p.annulus for p in patients}) == 40


@pytest.mark.parametrize("seed", [1, 7])
def test_points_follow_the_voxels(seed: int) -> None:
    """The voxel grid, interpolated at a point, shows that point of the anatomy to half a voxel."""
    patient, grid = draw_patient(seed), Grid((40, 44, 48), (4.0, 4.0, 4.5))
    axes = grid.axes()
    shown = patient.heart.anatomy_grid(*axes, patient.heart.bends(*axes))
    anatomy = np.stack(list(patient.points().values()))

    world = patient.heart.world_at(anatomy)

    np.testing.assert_allclose(patient.heart.anatomy_at(world), anatomy, atol=1e-6)
    index = (world - [axis[0] for axis in axes]) / grid.spacing_mm
    seen = np.stack([map_coordinates(v, index.T[::-1], order=1) for v in shown], 1)
    assert np.abs(seen - anatomy).max() < 0.5 * 4.0
    assert np.abs(seen - anatomy).max() < 0.5  # and in fact much better


@pytest.mark.parametrize("scanner", ["north", "harbour"])
def test_boxes_leave_no_trace(scanner: str) -> None:
    """Evaluating solids only near themselves gives the same bytes as evaluating them everywhere."""
    for seed in (3, 11):
        patient, style = draw_patient(seed), SCANNERS[scanner]
        grid = place_grid(style, seed, size=36, spacing_mm=5.5)

        boxed = paint(patient, style, grid, seed)
        dense = paint(patient, style, grid, seed, cropped=False)

        for name in ("hu", "chambers", "vessels", "calcification", "heart"):
            assert np.array_equal(getattr(boxed, name), getattr(dense, name)), name


def test_solids_are_distances() -> None:
    """A sphere and a tube measure millimetres, cut at the reach; a blend never shrinks a union."""
    axis = np.arange(-30, 30, dtype=np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    space = Space(np.stack([x, y, z]), 1.0)
    radius = np.sqrt(x * x + y * y + z * z)

    ball = space.ellipsoid(vector(0, 0, 0), (10, 10, 10))
    rod = space.tube(np.stack([vector(0, 0, -90), vector(0, 0, 90)]), 5.0)

    np.testing.assert_allclose(
        ball[radius > 0], np.minimum(radius - 10, REACH)[radius > 0], atol=1e-3
    )
    np.testing.assert_allclose(rod, np.minimum(np.hypot(x, y) - 5, REACH), atol=1e-3)
    assert (blend(ball, rod, 8) <= np.minimum(ball, rod)).all()


def test_field_of_view_may_exceed_or_miss_the_heart() -> None:
    """A whole chest holds every point; a field of view beside the heart holds none."""
    chest = make_case(2, "summit", size=48, spacing_mm=8.5)
    assert set(chest.points) == set(POINTS)
    assert (chest.hu < -900).mean() > 0.05

    away = Grid((16, 16, 16), (3.0, 3.0, 3.0), centre_mm=(90.0, 60.0, 60.0))
    assert paint(draw_patient(2), SCANNERS["north"], away, 2).points == {}


def test_tilted_grid_keeps_the_anatomy_in_place() -> None:
    """An oblique scan has an orthonormal direction, and its points sit on the same voxels."""
    patient, style = draw_patient(4), SCANNERS["north"]
    straight = paint(patient, style, Grid((20, 20, 20), (9.0, 9.0, 9.0)), 4)
    oblique = paint(patient, style, Grid((20, 20, 20), (9.0, 9.0, 9.0), tilt_deg=6.0), 4)

    np.testing.assert_allclose(oblique.direction @ oblique.direction.T, np.eye(3), atol=1e-12)
    assert np.array_equal(straight.hu, oblique.hu)
    for name, mm in straight.points.items():
        np.testing.assert_allclose(
            voxel_of(straight, mm), voxel_of(oblique, oblique.points[name]), atol=1e-9
        )
