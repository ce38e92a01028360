"""The drawing of a study's stages."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from stillroom.common.study import Study
from stillroom.server.study_drawing import Edge, as_svg, as_text, edges

STUDY = Path(__file__).parents[1] / "federation" / "systems.toml"


@pytest.fixture(scope="module")
def study() -> Study:
    """A study with every recipe."""
    return Study.load(STUDY)


def test_every_input_is_a_line(study: Study) -> None:
    """Weights by what they are used for, and what is written on site."""
    found = edges(study)

    for stage in study.stage:
        sources = {edge.source for edge in found if edge.target == stage.name}
        assert set(stage.inputs) <= sources
    assert Edge("context", "student", "start") in found
    assert Edge("student", "prompt", "backbone") in found
    assert Edge("label", "student", "on site") in found


def test_text_has_a_line_for_every_stage(study: Study) -> None:
    """Numbered where a step begins; those beside it are not."""
    lines = as_text(study).splitlines()

    assert len(lines) == len(study.stage)
    assert "<- start: context; teacher: teach-chambers" in as_text(study)
    numbered = [line for line in lines if line.lstrip()[0].isdigit()]
    assert len(numbered) < len(lines)


def test_the_picture_is_a_picture(study: Study) -> None:
    """Well-formed, every stage a box inside it, every line with a title, and nothing from elsewhere."""
    root = ET.fromstring(as_svg(study, {"student": "0.27 MB"}))  # noqa: S314  # our own
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    space = "{http://www.w3.org/2000/svg}"
    boxes = [one for one in root.findall(f"{space}rect") if "rx" in one.attrib]

    assert len(boxes) == len(study.stage)
    for box in boxes:
        x, y = float(box.attrib["x"]), float(box.attrib["y"])
        assert 0 <= x <= width - float(box.attrib["width"])
        assert 0 <= y <= height - float(box.attrib["height"])
    lines = [one for one in root.findall(f"{space}path") if one.find(f"{space}title") is not None]
    assert len(lines) == len(edges(study))
    assert "href" not in as_svg(study, {})
