"""Who is asked in a stage, who scores it, and which stages run side by side."""

from typing import Any

import pytest

from stillroom.common.errors import ConfigError
from stillroom.common.study import Study
from stillroom.server.rounds.admission import admit, admit_evaluation
from stillroom.server.rounds.schedule import exchanges_weights, waves


def study(stages: list[dict[str, Any]]) -> Study:
    return Study.parse(
        {
            "study": {"name": "admission", "held_out": ["summit"]},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {
                "vessels": {"kind": "mask", "classes": ["AO"]},
                "hinge": {"kind": "points", "names": ["NCC"]},
                "heart": {"kind": "mask", "classes": ["heart"]},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": stages,
        }
    )


FULL = study(
    [
        {"name": "t-heart", "recipe": "teach", "label": "heart"},
        {"name": "locate", "recipe": "localise", "teachers": ["t-heart"]},
        {"name": "t-vessels", "recipe": "teach", "label": "vessels"},
        {"name": "t-hinge", "recipe": "teach", "label": "hinge"},
        {"name": "label", "recipe": "pseudolabel", "teachers": ["t-vessels", "t-hinge"]},
        {"name": "student", "recipe": "distil"},
    ]
)


def counts(cases: int, **labels: int) -> dict[str, float]:
    return {
        "inventory.cases": cases,
        **{f"inventory.{label}.cases": number for label, number in labels.items()},
    }


SITES = {
    "river": counts(5, vessels=3),
    "harbour": counts(4, hinge=4, heart=1),
    "north": counts(6),
    "empty": counts(0),
    "summit": counts(8, vessels=8, hinge=8, heart=8),
}


def test_only_owners_teach() -> None:
    """A site without the label is left out, and the log says why."""
    admission = admit(FULL, FULL.stage_named("t-vessels"), SITES)

    assert admission.invited == ("river",)
    assert admission.left_out == {
        "harbour": "has no case with label vessels",
        "north": "has no case with label vessels",
        "empty": "has no usable case",
        "summit": "held out: evaluated only",
    }


@pytest.mark.parametrize("stage", ["label", "student"])
def test_everybody_with_a_case_labels_and_distils(stage: str) -> None:
    """Unlabelled scans count: that is what the study is for. Invitations are sorted."""
    assert admit(FULL, FULL.stage_named(stage), SITES).invited == ("harbour", "north", "river")


def test_held_out_sites_find_the_heart_too() -> None:
    """Scoring needs the same crop as training, and finding the heart trains nothing."""
    invited = admit(FULL, FULL.stage_named("locate"), SITES).invited

    assert invited == ("harbour", "north", "river", "summit")


@pytest.mark.parametrize("sites", [{}, {"summit": SITES["summit"]}, {"empty": counts(0)}])
def test_nobody_is_an_error(sites: dict[str, dict[str, float]]) -> None:
    """A stage that nobody can run says what is missing, not that it succeeded."""
    for stage, wanted in (("t-vessels", "label vessels"), ("student", "a usable case")):
        with pytest.raises(ConfigError, match=wanted) as caught:
            admit(FULL, FULL.stage_named(stage), sites)
        assert caught.value.code == "STR-104"


def test_held_out_sites_and_owners_score() -> None:
    """A teacher is scored by the owners of its label, the student by owners of any of its labels."""

    def scorers(stage: str, *, held_out_only: bool = False) -> tuple[str, ...]:
        return admit_evaluation(FULL, FULL.stage_named(stage), SITES, held_out_only=held_out_only)

    assert scorers("t-vessels") == ("river", "summit")
    assert scorers("student") == ("harbour", "river", "summit")
    assert scorers("student", held_out_only=True) == ("summit",)
    assert admit_evaluation(FULL, FULL.stage_named("t-heart"), {}, held_out_only=False) == ()


def test_teachers_run_side_by_side() -> None:
    """Consecutive teachers share a wave; whatever changes what others see stands alone."""
    names = [tuple(stage.name for stage in wave) for wave in waves(FULL)]

    assert names == [
        ("t-heart",),
        ("locate",),
        ("t-vessels", "t-hinge"),
        ("label",),
        ("student",),
    ]
    assert [stage for wave in waves(FULL) for stage in wave] == list(FULL.stage)


def test_which_stages_exchange_weights() -> None:
    """Labelling and locating return counts only."""
    assert [stage.name for stage in FULL.stage if exchanges_weights(stage)] == [
        "t-heart",
        "t-vessels",
        "t-hinge",
        "student",
    ]
