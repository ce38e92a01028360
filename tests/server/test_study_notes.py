"""What a study says in the log, from what its process knows."""

from stillroom.common.study import Stage
from stillroom.server.rounds.state import RunState
from stillroom.server.study_notes import NOT_THERE, round_opened

STAGE = Stage.model_validate({"name": "student", "recipe": "distil", "rounds": 2})


def test_an_opening_names_everybody() -> None:
    """Who is asked; and of every other site of the consortium, agreed or not, why it is not."""
    standings = {
        "harbour": "given",
        "north": "given",
        "river": "withdrawn",
        "summit": "given",
        "valley": "none",
    }
    state = RunState(study="a" * 64, started_at=0.0, number=1, standings=standings)

    opened = round_opened(state, STAGE, ["harbour"], {"summit": "held out: evaluated only"})

    assert opened.invited == ("harbour",)
    assert opened.left_out == {
        "north": NOT_THERE,
        "river": "consent withdrawn",
        "summit": "held out: evaluated only",
        "valley": "no consent given",
    }


def test_an_opening_without_a_registry() -> None:
    """Where nobody keeps consents, those are named whom the study itself left out."""
    state = RunState(study="a" * 64, started_at=0.0, number=1)
    opened = round_opened(state, STAGE, ["harbour"], {"river": "has no case"})
    assert opened.left_out == {"river": "has no case"}
