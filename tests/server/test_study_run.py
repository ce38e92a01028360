"""A whole study against sites that can fail on command: late, refused, hostile, or gone."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.common.errors import ConfigError, ContractError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import read_weights, write_weights
from stillroom.server.rounds.outcome import Answer
from stillroom.server.store.journal import Journal, read_events
from stillroom.server.study_run import Call, StudyRun, require_student

LABELS = {"vessels": ["AO"], "hinge": ["NCC"]}
TRAINED = ("t-vessels", "t-hinge", "student")
MANIFEST = Manifest(
    tensors=(
        TensorSpec(name="trunk.w", shape=(4,), dtype="float32", group="trunk"),
        TensorSpec(name="head.vessels.w", shape=(2,), dtype="float32", group="head.vessels"),
    )
)
START = {"trunk.w": np.zeros(4, np.float32), "head.vessels.w": np.zeros(2, np.float32)}
SITES = {
    "harbour": {"inventory.cases": 4, "inventory.hinge.cases": 4},
    "river": {"inventory.cases": 5, "inventory.vessels.cases": 3},
    "summit": {"inventory.cases": 2, "inventory.vessels.cases": 2, "inventory.hinge.cases": 2},
}


def study(**section: Any) -> Study:
    return Study.parse(
        {
            "study": {"name": "fake", "held_out": ["summit"], **section},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {
                "vessels": {"kind": "mask", "classes": LABELS["vessels"]},
                "hinge": {"kind": "points", "names": LABELS["hinge"]},
            },
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {"name": "t-vessels", "recipe": "teach", "label": "vessels", "rounds": 2},
                {"name": "t-hinge", "recipe": "teach", "label": "hinge"},
                {"name": "label", "recipe": "pseudolabel", "teachers": ["t-vessels", "t-hinge"]},
                {"name": "student", "recipe": "distil", "rounds": 2, "evaluate_every": 1},
            ],
        }
    )


Fault = Callable[[Call], Answer | None]


@dataclass
class FakeExchange:
    """Sites that answer as they should, unless ``fault`` has another answer for a call."""

    names: tuple[str, ...] = tuple(SITES)
    fault: Fault = lambda _: None
    asked: list[Call] = field(default_factory=list)

    def sites(self) -> tuple[str, ...]:
        """All that are connected."""
        return self.names

    def ask(self, calls: Sequence[Call], *, deadline_s: float) -> Iterator[tuple[Call, Answer]]:
        """One answer per call, in order."""
        assert deadline_s > 0
        for call in calls:
            self.asked.append(call)
            yield call, self.fault(call) or Answer(self.reply(call), None, 0.5)

    def reply(self, call: Call) -> Reply:
        """What a site without a fault says."""
        if call.kind == INVENTORY:
            return Reply(metrics=SITES[call.site])
        if call.kind == LABEL:
            return Reply(metrics={"pseudo.vessels.written": 3})
        if call.kind == STAGE:
            prefix = "eval.vessels.AO."
            return Reply(
                metrics={prefix + "cases": 2, prefix + "dice": 0.9, prefix + "detected": 1.0}
            )
        assert call.task.weights is not None
        weights = {name: value + 1 for name, value in call.task.weights.items()}
        return Reply(weights, {"trunk": 2, "head.vessels": 2}, {"train.loss": 0.5})


@dataclass
class World:
    """A prepared study on disk and where its run goes."""

    folder: Path

    def run(self, exchange: FakeExchange, **section: Any) -> dict[str, Any]:
        """Run the study; its result.json, whether it raised or not."""
        digest = write_weights(self.folder / "weights", START)
        stage = PreparedStage(initial_sha256=digest, manifest=MANIFEST)
        prepared = PreparedStudy(study=study(**section), stages=dict.fromkeys(TRAINED, stage))
        self.error: BaseException | None = None
        run = StudyRun(prepared, self.folder / "weights", exchange, Journal(self.folder / "run"))
        try:
            run.run()
        except Exception as error:  # noqa: BLE001  # looked at by the test
            self.error = error
        return json.loads((self.folder / "run" / "result.json").read_text("utf-8"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every event called ``name``."""
        return [e for _, e in read_events(self.folder / "run") if e["event"] == name]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def at(kind: str, site: str, answer: Answer, *, stage: str = "", number: int = 0) -> Fault:
    """The fault of one site in one kind of call."""

    def fault(call: Call) -> Answer | None:
        hit = (
            call.kind == kind
            and call.site == site
            and stage in ("", call.task.stage)
            and number in (0, call.task.round)
        )
        return answer if hit else None

    return fault


LATE = Answer(None, None, 9.0)


def test_everything_goes_well(world: World) -> None:
    """Stages in order, models committed, scores of the held-out site, and no note."""
    exchange = FakeExchange()
    result = world.run(exchange)

    assert world.error is None
    assert (result["status"], result["complete_participation"], result["notes"]) == (
        "completed",
        True,
        [],
    )
    assert [stage["name"] for stage in result["stages"]] == [
        "t-vessels",
        "t-hinge",
        "label",
        "student",
    ]
    assert [len(stage["rounds"]) for stage in result["stages"]] == [2, 1, 1, 2]
    assert result["metrics"]["pooled"]["vessels"]["mean_dice"] == 0.9
    student = read_weights(world.folder / "run" / "weights", result["student"]["sha256"])
    np.testing.assert_array_equal(student["trunk.w"], np.full(4, 2.0))
    assert [c.site for c in exchange.asked if c.task.stage == "student" and c.kind == ROUND] == [
        "harbour", "river", "harbour", "river",
    ]  # fmt: skip
    labelled = next(c for c in exchange.asked if c.kind == LABEL)
    assert labelled.task.teachers.keys() == {"t-vessels", "t-hinge"}
    assert labelled.task.weights is None
    assert world.events("study.finished")[-1]["status"] == "completed"
    record = json.loads((world.folder / "run" / "round-student-0001.json").read_text())
    assert record["evaluation"].keys() == {"summit"}


def test_teachers_of_a_wave_are_asked_together(world: World) -> None:
    """Both owners work at the same time: one `ask` holds the first round of both stages."""
    exchange = FakeExchange()
    world.run(exchange)
    rounds = [(c.task.stage, c.task.round) for c in exchange.asked if c.kind == ROUND]

    assert rounds[:3] == [("t-vessels", 1), ("t-hinge", 1), ("t-vessels", 2)]


BAD = {
    "late": (LATE, "late"),
    "failed": (Answer(None, "STR-401", 1.0), "STR-401"),
    "refused": (Answer(None, "STR-205", 1.0), "STR-205"),
    "nan": (
        Answer(Reply({**START, "trunk.w": np.full(4, np.nan, np.float32)}, {"trunk": 1}), None, 1),
        "STR-303",
    ),
    "1e30": (
        Answer(Reply({**START, "trunk.w": np.full(4, 1e30, np.float32)}, {"trunk": 1}), None, 1),
        "STR-303",
    ),
    "extra tensor": (
        Answer(Reply({**START, "name": np.zeros(1, np.float32)}, {"trunk": 1}), None, 1),
        "STR-301",
    ),
    "name in a metric": (Answer(Reply(START, {"trunk": 1}, {"DOE^JANE": 1}), None, 1), "STR-304"),
    "name in a count": (Answer(Reply(START, {"DOE^JANE": 1}), None, 1), "STR-304"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_site_never_fails_a_round(world: World, name: str) -> None:
    """The round goes on with the others; the record and a note say who and why, in our words."""
    answer, word = BAD[name]
    result = world.run(FakeExchange(fault=at(ROUND, "river", answer, stage="student", number=2)))

    assert world.error is None
    assert (result["status"], result["complete_participation"]) == ("completed", False)
    last = result["stages"][-1]["rounds"][-1]
    assert last["order"] == ["harbour"]
    assert word in last["sites"]["river"].get("reason", "") + last["sites"]["river"]["status"]
    assert len(result["notes"]) == 1
    assert "student, round 2: river" in result["notes"][0]
    assert "DOE" not in "".join(p.read_text() for p in (world.folder / "run").glob("*.json*"))
    student = read_weights(world.folder / "run" / "weights", result["student"]["sha256"])
    np.testing.assert_array_equal(student["trunk.w"], np.full(4, 2.0))


def test_all_failing_is_a_failed_study(world: World) -> None:
    """STR-305 with every site's reason; what was reached stays recorded."""
    broken = Answer(None, "STR-401", 1.0)
    result = world.run(
        FakeExchange(
            fault=lambda c: broken if (c.kind, c.task.stage) == (ROUND, "student") else None
        )
    )

    assert isinstance(world.error, ContractError)
    assert world.error.code == "STR-305"
    assert (result["status"], result["error"]["code"], result["error"]["exit_status"]) == (
        "failed",
        "STR-305",
        4,
    )
    assert "harbour: STR-401" in result["error"]["what"]
    assert [len(stage["rounds"]) for stage in result["stages"]] == [2, 1, 1, 0]
    assert world.events("study.finished")[-1]["status"] == "failed"


def test_below_quorum(world: World) -> None:
    """One of two is not enough where two are asked for."""
    fault = at(ROUND, "river", LATE, stage="student")
    result = world.run(FakeExchange(fault=fault), quorum={"min_sites": 2})

    assert isinstance(world.error, ContractError)
    assert result["error"]["code"] == "STR-306"


def test_label_nobody_owns_is_known_before_any_stage(world: World) -> None:
    """STR-104 after the inventory, not after an hour of other stages."""
    exchange = FakeExchange(names=("river",))
    result = world.run(exchange)

    assert isinstance(world.error, ConfigError)
    assert result["error"]["code"] == "STR-104"
    assert "hinge" in result["error"]["what"]
    assert {call.kind for call in exchange.asked} == {INVENTORY}
    assert world.events("stage.opened") == []


@pytest.mark.parametrize("answer", [LATE, Answer(None, "STR-410", 1.0)])
def test_site_without_an_inventory_takes_no_part(world: World, answer: Answer) -> None:
    """It is left out and named; the others go on without it."""
    exchange = FakeExchange(fault=at(INVENTORY, "summit", answer))
    result = world.run(exchange)

    assert world.error is None
    assert "summit takes no part" in result["notes"][0]
    assert {call.site for call in exchange.asked if call.kind == STAGE} == {"harbour", "river"}


def test_site_without_cases_is_noted(world: World) -> None:
    """It is connected and has nothing: participation was not complete, and the notes say so."""
    nothing = Answer(Reply(metrics={"inventory.cases": 0}), None, 1.0)
    result = world.run(FakeExchange(fault=at(INVENTORY, "summit", nothing)))

    assert world.error is None
    assert result["notes"] == ["summit has no usable case."]
    assert result["complete_participation"] is False


def test_a_site_that_cannot_score_is_a_note(world: World) -> None:
    """Scores of the others are kept; the table pools what there is."""
    result = world.run(FakeExchange(fault=at(STAGE, "summit", LATE, stage="student")))

    assert world.error is None
    assert any("summit could not be scored" in note for note in result["notes"])
    assert "summit" not in result["metrics"]


def test_damaged_initial_weights(world: World) -> None:
    """The study never starts from weights that are not the agreed ones."""
    digest = write_weights(world.folder / "weights", START)
    original = FakeExchange.sites

    class Saboteur(FakeExchange):
        def sites(self) -> tuple[str, ...]:
            path = world.folder / "weights" / f"{digest}.safetensors"
            path.write_bytes(path.read_bytes() + b"\0")
            return original(self)

    result = world.run(Saboteur())

    assert result["error"]["code"] == "STR-204"


def test_a_bug_is_a_failed_study_too(world: World) -> None:
    """Every way out leaves a result: whoever watches would wait for ever otherwise."""

    def fault(call: Call) -> None:
        if call.task.stage == "student":
            raise RuntimeError("DOE^JANE")

    result = world.run(FakeExchange(fault=fault))

    assert isinstance(world.error, RuntimeError)
    assert (result["status"], result["error"]["code"]) == ("failed", "STR-505")
    assert "DOE" not in json.dumps(result)
    assert world.events("study.finished")[-1]["status"] == "failed"


def test_study_without_a_student() -> None:
    """Nothing to release is told before anything is trained."""
    whole = study()
    require_student(whole)

    with pytest.raises(StillroomError) as caught:
        require_student(whole.model_copy(update={"stage": whole.stage[:-1]}))
    assert caught.value.code == "STR-103"
