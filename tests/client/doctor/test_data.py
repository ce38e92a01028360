"""Scans and cases: what counts mean, and that small ones are not shown."""

from typing import Any

import pytest

from stillroom.client.doctor.data import DataSeen, cases_finding, scans_finding
from stillroom.common.study import Study


def study(min_cohort: int) -> Study:
    return Study.parse(
        {
            "study": {"name": "few", "min_cohort": min_cohort},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {
                "vessels": {"kind": "mask", "classes": ["aorta"]},
                "chambers": {"kind": "mask", "classes": ["LV"]},
            },
            "model": {
                "student": {"arch": "light-swin", "feature_size": 12},
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
            },
            "stage": [
                {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 1},
                {"name": "student", "recipe": "distil", "rounds": 1},
            ],
        }
    )


def counts(total: int, **labels: int) -> dict[str, float]:
    return {"inventory.cases": total, **{f"inventory.{k}.cases": n for k, n in labels.items()}}


@pytest.mark.parametrize(
    ("have", "outcome"),
    [
        (counts(0), "failed"),
        (counts(4), "failed"),
        (counts(9), "warning"),
        (counts(9, vessels=3), "failed"),
        (counts(9, chambers=3), "ok"),  # no stage here trains it
        (counts(9, vessels=5), "ok"),
        (counts(9, vessels=9, chambers=9), "ok"),
    ],
)
def test_cases(have: dict[str, float], outcome: str) -> None:
    """Against the floor of five, in all and of every label that a stage trains."""
    assert cases_finding(have, study(5)).outcome == outcome


def test_small_counts_are_not_shown() -> None:
    """Neither on the screen nor to the operator: the report may be sent away."""
    found = cases_finding(counts(9, vessels=3, chambers=2), study(5))
    assert "fewer than 5" in found.saw
    for text in (found.saw, found.told, str(found.facts)):
        assert "3" not in text
        assert "2" not in text


@pytest.mark.parametrize(
    ("fields", "outcome", "words"),
    [
        ({"names": 0}, "failed", "empty"),
        ({"names": 4, "headers": 4, "other": 4}, "failed", "No CT series"),
        ({"names": 4, "headers": 4, "series": 1}, "ok", "1 series"),
        ({"names": 4, "images": 2}, "ok", "2 other images"),
        ({"names": 20_000, "complete": False, "headers": 300, "series": 9}, "ok", "and more"),
    ],
)
def test_scans(fields: dict[str, Any], outcome: str, words: str) -> None:
    """Nothing, nothing usable, something."""
    none = {"names": 0, "complete": True, "headers": 0, "series": 0, "other": 0, "images": 0}
    found = scans_finding(DataSeen(**(none | fields)))
    assert found.outcome == outcome
    assert words in found.saw
