"""Points as 3D Slicer markups, in LPS millimetres."""

import json
from collections.abc import Mapping
from pathlib import Path

from stillroom.client.training.targets import Point

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)


def write_markups(path: Path, points: Mapping[str, Point | None]) -> None:
    """A fiducial list; a point that was not found is listed as undefined rather than left out."""
    controls = [
        {
            "id": str(number),
            "label": name,
            "position": None if mm is None else list(mm),
            "positionStatus": "undefined" if mm is None else "defined",
            "selected": True,
            "locked": False,
            "visibility": True,
        }
        for number, (name, mm) in enumerate(points.items(), start=1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": controls,
    }
    path.write_text(json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=2) + "\n", "utf-8")
