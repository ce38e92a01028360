"""Points come back in LPS mm whatever the file declares, and no file makes the readers crash."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillroom.client.intake.labels import read_points
from stillroom.client.intake.labels_points import read_csv, read_markups
from stillroom.client.intake.roi import read_boxes
from stillroom.common.errors import DataError
from stillroom.common.study import PointsLabel

LABEL = PointsLabel(kind="points", names=("RCC", "LCC"))
RCC, LCC = (-30.123456, 13.654321, -398.7654), (-29.0, 15.0, -395.0)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def markups(path: Path, system: str | None = "LPS", **changes: object) -> Path:
    sign = -1 if system == "RAS" else 1
    controls = [
        {"label": "rcc", "position": [sign * RCC[0], sign * RCC[1], RCC[2]]},
        {"label": "LCC ", "position": [sign * LCC[0], sign * LCC[1], LCC[2]]},
    ]
    markup: dict[str, object] = {"type": "Fiducial", "controlPoints": controls} | changes
    if system:
        markup["coordinateSystem"] = system
    path.write_text(json.dumps({"markups": [markup]}), "utf-8")
    return path


@pytest.mark.parametrize("system", ["LPS", "RAS", None])
def test_markups_are_exact_in_either_system(
    tmp_path: Path, make_image: Callable[..., sitk.Image], system: str | None
) -> None:
    """RAS flips the first two axes; a file that says nothing is LPS, as the schema has it."""
    read = read_points(markups(tmp_path / "p.mrk.json", system), LABEL, None, make_image())

    assert read == {"RCC": pytest.approx(RCC, abs=1e-3), "LCC": pytest.approx(LCC, abs=1e-3)}


def test_undefined_position_is_not_visible(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """An annotator who looked and did not find the point says so; it is not simply missing."""
    controls = [
        {"label": "RCC", "position": [0, 0, 0], "positionStatus": "undefined"},
        {"label": "LCC", "position": list(LCC), "positionStatus": "defined"},
    ]
    path = markups(tmp_path / "p.json", controlPoints=controls)

    assert read_points(path, LABEL, None, make_image()) == {"RCC": None, "LCC": LCC}


@pytest.mark.parametrize(
    "changes",
    [
        {"coordinateSystem": "XYZ"},
        {"coordinateUnits": "um"},
        {"controlPoints": [{"label": "RCC", "position": [0, 0]}]},
        {"controlPoints": [{"label": "RCC", "position": [0, 0, "secret-name"]}]},
        {"controlPoints": [{"label": "RCC", "position": list(RCC)}]},
        {"controlPoints": [{"label": "RCC", "position": list(RCC)}] * 2},
        {"controlPoints": "secret-name"},
    ],
)
def test_unusable_markups_are_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image], changes: dict[str, object]
) -> None:
    """Another unit or system, a missing or doubled point: refused without quoting the file."""
    path = markups(tmp_path / "p.json", None, **changes)

    with pytest.raises(DataError) as caught:
        read_points(path, LABEL, None, make_image())

    assert caught.value.code == "STR-431"
    assert "secret" not in str(caught.value)


def test_csv_of_several_scans(tmp_path: Path, make_image: Callable[..., sitk.Image]) -> None:
    """Rows are taken by series; names may differ from the study's; empty cells are not visible."""
    path = tmp_path / "p.csv"
    path.write_text(
        "series, name, x, y, z, label\n"
        f"1.2.3, right, {RCC[0]}, {RCC[1]}, {RCC[2]}, hinge\n"
        "1.2.3, LCC, , , , hinge\n"
        "1.2.3, LCC, 1, 2, 3, other\n"
        "9.9.9, right, 1e5, 0, 0, hinge\n",
        "utf-8-sig",
    )

    read = read_points(
        path, LABEL, {"RCC": "Right"}, make_image(), series=["1.2.3"], label_name="hinge"
    )

    assert read == {"RCC": pytest.approx(RCC, abs=1e-3), "LCC": None}


@pytest.mark.parametrize("cell", ["PLANTED", "nan", "inf", "1,5,7,8,9", ""])
def test_bad_number_names_the_line_only(tmp_path: Path, cell: str) -> None:
    """Hospital staff find the line; whoever reads the log learns nothing from it."""
    path = tmp_path / "p.csv"
    path.write_text(f"series,name,x,y,z\n1.2.3,RCC,1,2,3\n1.2.3,LCC,{cell},2,3\n", "utf-8")

    with pytest.raises(DataError, match="Line 3 ") as caught:
        read_csv(path)

    assert "PLANTED" not in str(caught.value)


def test_point_outside_its_scan_is_refused(
    tmp_path: Path, make_image: Callable[..., sitk.Image]
) -> None:
    """LPS read as RAS puts the heart beside the patient: that must not train anybody."""
    with pytest.raises(DataError) as caught:
        read_points(markups(tmp_path / "p.json"), LABEL, None, make_image(origin=(0.0, 300.0, 0.0)))

    assert caught.value.code == "STR-432"


def test_oblique_scan_holds_points_by_its_own_axes(
    tmp_path: Path, make_image: Callable[..., sitk.Image], tilted: tuple[float, ...]
) -> None:
    """A corner of the bounding box of an oblique scan is not in its field of view."""
    scan = make_image(tilted, origin=(0.0, 0.0, 0.0))
    inside = scan.TransformContinuousIndexToPhysicalPoint((4.3, 5.2, 2.9))
    label = PointsLabel(kind="points", names=("A",))
    path = tmp_path / "p.csv"

    path.write_text("name,x,y,z\nA,{},{},{}\n".format(*inside), "utf-8")
    assert read_points(path, label, None, scan)["A"] == pytest.approx(inside, abs=1e-3)

    outside = scan.TransformContinuousIndexToPhysicalPoint((-0.7, 5.2, 2.9))
    path.write_text("name,x,y,z\nA,{},{},{}\n".format(*outside), "utf-8")
    with pytest.raises(DataError):
        read_points(path, label, None, scan)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "markups",
                    "controlPoints",
                    "position",
                    "label",
                    "coordinateSystem",
                    "positionStatus",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def code_of(read: Callable[[Path], object], path: Path) -> str:
    """The code that a reader ends with; any other exception fails the test."""
    try:
        read(path)
    except DataError as error:
        return error.code
    return ""


@QUICK
@given(value=JSON, wrap=st.booleans())
def test_no_json_crashes_the_reader(tmp_path: Path, value: object, wrap: bool) -> None:
    """Whatever the JSON, the answer is points or a code."""
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"markups": [value]} if wrap else value), "utf-8")

    for read in (read_markups, read_boxes):
        assert code_of(read, path) in {"", "STR-431"}


@QUICK
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode), header=st.booleans())
def test_no_bytes_crash_the_csv_reader(tmp_path: Path, content: bytes, header: bool) -> None:
    """Whatever the bytes, the answer is points or a code."""
    path = tmp_path / "p.csv"
    path.write_bytes((b"series,name,x,y,z\n" if header else b"") + content)

    for read in (read_csv, read_boxes, read_markups):
        assert code_of(read, path) in {"", "STR-431"}


def test_boxes_of_both_kinds_are_the_same(tmp_path: Path) -> None:
    """CSV and JSON of the same boxes say the same."""
    (tmp_path / "b.csv").write_text(
        "series,x_low,y_low,z_low,x_high,y_high,z_high\ncase1,-1,-2,-3,4,5,6.5\n", "utf-8"
    )
    (tmp_path / "b.json").write_text('{"case1": [[-1, -2, -3], [4, 5, 6.5]]}', "utf-8")

    assert read_boxes(tmp_path / "b.csv") == read_boxes(tmp_path / "b.json")
    assert read_boxes(tmp_path / "b.csv") == {"case1": ((-1, -2, -3), (4, 5, 6.5))}


@pytest.mark.parametrize(
    "row", ["case1,4,0,0,1,1,1", "case1,a,0,0,1,1,1", "case1,0,0", "x,nan,0,0,1,1,1"]
)
def test_box_without_two_corners_is_refused(tmp_path: Path, row: str) -> None:
    """A box inside out is an error of the file, not an empty crop."""
    path = tmp_path / "b.csv"
    path.write_text(f"series,x_low,y_low,z_low,x_high,y_high,z_high\n{row}\n", "utf-8")

    with pytest.raises(DataError, match="Line 2"):
        read_boxes(path)
