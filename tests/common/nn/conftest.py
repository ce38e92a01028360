"""A small study for networks."""

from typing import Any

import pytest

from stillroom.common.study import Study


@pytest.fixture
def study_dict() -> dict[str, Any]:
    """A study with one mask and one point label, a teacher of each and a student."""
    return {
        "study": {"name": "nets", "seed": 3, "max_update_mib": 8},
        "volume": {"spacing_mm": [4.0, 4.0, 4.0], "patch": [16, 16, 16]},
        "label": {
            "blob": {"kind": "mask", "classes": ["ball"]},
            "spots": {"kind": "points", "names": ["a", "b"]},
        },
        "model": {
            "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
            "student": {"arch": "light-swin", "feature_size": 12},
        },
        "stage": [
            {"name": "teach-blob", "recipe": "teach", "label": "blob"},
            {"name": "teach-spots", "recipe": "teach", "label": "spots"},
            {"name": "label", "recipe": "pseudolabel", "teachers": ["teach-blob", "teach-spots"]},
            {"name": "student", "recipe": "distil"},
        ],
    }


@pytest.fixture
def study(study_dict: dict[str, Any]) -> Study:
    """The same, checked."""
    return Study.parse(study_dict)
