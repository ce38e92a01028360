"""A whole study against sites that can fail on command: late, refused, hostile, or gone."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from stillroom.common.canonical import digest, file_digest
from stillroom.common.errors import ConfigError, ContractError, StillroomError, TrustError
from stillroom.common.log_entries import (
    Entry,
    Release,
    RoundCommitted,
    RoundOpened,
    Scored,
    StageOpened,
    StudyFinished,
    StudyStarted,
    Update,
    Witnessed,
    parse_entry,
)
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, UpdateRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import parse, read_weights, serialise, write_weights
from stillroom.common.tlog.checkpoint import cosign
from stillroom.common.tlog.folder import LogFolder, read_checkpoint
from stillroom.common.tlog.merkle import Tree, leaf_hash
from stillroom.common.tlog.proof import parse_proof
from stillroom.server.asking import Awaited, Call
from stillroom.server.attestation import parse_statement, subject_problems
from stillroom.server.audit.history import tell
from stillroom.server.audit.replay import replay
from stillroom.server.chronicle import Chronicle
from stillroom.server.cosigned import Cosigned
from stillroom.server.depot import Depot
from stillroom.server.endings import Ended, Paused
from stillroom.server.log import Log
from stillroom.server.logbook import Logbook
from stillroom.server.release_proof import files_of, prove_release
from stillroom.server.rounds.outcome import Answer
from stillroom.server.run_cli import run as run_app
from stillroom.server.store.folder import RunFolder, claimed, is_free
from stillroom.server.store.journal import read_events
from stillroom.server.study_run import StudyRun

LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
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


Sent = tuple[Mapping[str, Any], Reply]
"""Weights of an update's file, and the reply that goes with it (its update is filled in)."""
Fault = Callable[[Call], Answer | Sent | None]


@dataclass
class FakeExchange:
    """Sites that answer as they should, unless ``fault`` has another answer for a call."""

    depot: Depot
    names: tuple[str, ...] = tuple(SITES)
    fault: Fault = lambda _: None
    asked: list[Call] = field(default_factory=list)
    backwards: bool = False

    def sites(self) -> tuple[str, ...]:
        """All that are connected."""
        return self.names

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """One answer per call; silence is no answer at all."""
        for call in reversed(calls) if self.backwards else calls:
            assert call.key in awaited() or awaited() == set()
            self.asked.append(call)
            answer = self.fault(call) or self.reply(call)
            if isinstance(answer, tuple):
                answer = Answer(self.sent(call, *answer), None, 0.5)
            if answer != LATE:
                yield call, answer

    def sent(self, call: Call, weights: Mapping[str, Any], reply: Reply) -> Reply:
        """The reply, with its update uploaded."""
        data = serialise(weights)
        sha256 = hashlib.sha256(data).hexdigest()
        have, whole = self.depot.have(call.site, sha256)
        if not whole:
            self.depot.append(call.site, sha256, [data[have:]], offset=have, total=len(data))
        base = call.task.models[call.task.stage].sha256
        return Reply(UpdateRef("fp32", base, sha256, len(data)), reply.samples, reply.metrics)

    def reply(self, call: Call) -> Answer | Sent:
        """What a site without a fault says."""
        if call.kind == INVENTORY:
            return Answer(Reply(metrics=SITES[call.site]), None, 0.5)
        if call.kind == LABEL:
            return Answer(Reply(metrics={"pseudo.vessels.written": 3}), None, 0.5)
        if call.kind == STAGE:
            prefix = "eval.vessels.AO."
            numbers = {prefix + "cases": 2, prefix + "dice": 0.9, prefix + "detected": 1.0}
            return Answer(Reply(metrics=numbers), None, 0.5)
        path = self.depot.outgoing(call.task.models[call.task.stage].sha256)
        assert path is not None, "a site cannot fetch the model"
        weights = {name: value + 1 for name, value in parse(path.read_bytes()).items()}
        return weights, Reply(samples={"trunk": 2, "head.vessels": 2}, metrics={"train.loss": 0.5})


@dataclass
class World:
    """A prepared study on disk and where its run goes."""

    folder: Path
    error: BaseException | None = None
    heed: Callable[[], None] = lambda: None
    logged: bool = False

    @property
    def book(self) -> Logbook:
        """The consortium's log."""
        log = Log(self.folder / "log", self.folder / "guard", "test/log", LOG_KEY)
        return Logbook(log, Cosigned(self.folder / "cosigned"))

    def entries(self, kind: type[Entry] = Entry) -> list[Any]:
        """Every entry of a kind, after the log was checked against its tiles."""
        book = self.book
        head, _ = read_checkpoint(book.log.folder, book.log.verifier)
        found = [raw for _, raw in LogFolder(book.log.folder, head.size).entries()]
        assert Tree(map(leaf_hash, found)).root() == head.root
        return [entry for entry in map(parse_entry, found) if isinstance(entry, kind)]

    @property
    def depot(self) -> Depot:
        """Where files are on their way."""
        return Depot(self.folder / "depot")

    def prepared(self, **section: Any) -> PreparedStudy:
        """The study, with its initial weights on disk."""
        digest = write_weights(self.folder / "weights", START)
        stage = PreparedStage(initial_sha256=digest, manifest=MANIFEST)
        return PreparedStudy(study=study(**section), stages=dict.fromkeys(TRAINED, stage))

    def start(self, exchange: FakeExchange, **section: Any) -> StudyRun:
        """A process of the run, about to begin."""
        folder = RunFolder(self.folder / "run", self.folder / "weights")
        return StudyRun(
            self.prepared(**section),
            folder,
            exchange,
            self.depot,
            heed=self.heed,
            chronicle=Chronicle(self.book if self.logged else None, "trial"),
        )

    def run(
        self,
        fault: Fault = lambda _: None,
        names: tuple[str, ...] = tuple(SITES),
        **section: Any,
    ) -> dict[str, Any]:
        """Run the study; its result.json, whether it raised or not."""
        self.exchange = FakeExchange(self.depot, names, fault)
        self.error = None
        try:
            self.start(self.exchange, **section).run()
        except Exception as error:  # noqa: BLE001  # looked at by the test
            self.error = error
        return json.loads((self.folder / "run" / "result.json").read_text("utf-8"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every event called ``name``."""
        return [e for _, e in read_events(self.folder / "run") if e["event"] == name]

    def student(self, result: dict[str, Any]) -> Mapping[str, Any]:
        """Its weights."""
        return read_weights(self.folder / "run" / "weights", result["student"]["sha256"])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def told(tmp_path: Path) -> World:
    """One with a log."""
    return World(tmp_path, logged=True)


def at(kind: str, site: str, answer: Answer | Sent, *, stage: str = "", number: int = 0) -> Fault:
    """The fault of one site in one kind of call."""

    def fault(call: Call) -> Answer | Sent | None:
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
    result = world.run()
    exchange = world.exchange

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
    np.testing.assert_array_equal(world.student(result)["trunk.w"], np.full(4, 2.0))
    assert [c.site for c in exchange.asked if c.task.stage == "student" and c.kind == ROUND] == [
        "harbour", "river", "harbour", "river",
    ]  # fmt: skip
    labelled = next(c for c in exchange.asked if c.kind == LABEL)
    assert labelled.task.models.keys() == {"t-vessels", "t-hinge"}
    assert world.events("study.finished")[-1]["status"] == "completed"
    scores = json.loads((world.folder / "run" / "scores-student-0001.json").read_text())
    assert scores.keys() == {"summit"}
    assert result["stages"][-1]["rounds"][0]["evaluation"] == scores


def test_teachers_of_a_wave_are_asked_together(world: World) -> None:
    """Both owners work at the same time: one `ask` holds the first round of both stages."""
    world.run()
    exchange = world.exchange
    rounds = [(c.task.stage, c.task.round) for c in exchange.asked if c.kind == ROUND]

    assert rounds[:3] == [("t-vessels", 1), ("t-hinge", 1), ("t-vessels", 2)]


BAD = {
    "late": (LATE, "late"),
    "failed": (Answer(None, "STR-401", 1.0), "STR-401"),
    "refused": (Answer(None, "STR-205", 1.0), "STR-205"),
    "nan": (
        ({**START, "trunk.w": np.full(4, np.nan, np.float32)}, Reply(samples={"trunk": 1})),
        "STR-303",
    ),
    "1e30": (
        ({**START, "trunk.w": np.full(4, 1e30, np.float32)}, Reply(samples={"trunk": 1})),
        "STR-303",
    ),
    "extra tensor": (
        ({**START, "name": np.zeros(1, np.float32)}, Reply(samples={"trunk": 1})),
        "STR-301",
    ),
    "name in a metric": ((START, Reply(None, {"trunk": 1}, {"DOE^JANE": 1})), "STR-304"),
    "name in a count": ((START, Reply(None, {"DOE^JANE": 1})), "STR-304"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_site_never_fails_a_round(world: World, name: str) -> None:
    """The round goes on with the others; the record and a note say who and why, in our words."""
    answer, word = BAD[name]
    result = world.run(at(ROUND, "river", answer, stage="student", number=2))

    assert world.error is None
    assert (result["status"], result["complete_participation"]) == ("completed", False)
    last = result["stages"][-1]["rounds"][-1]
    assert last["order"] == ["harbour"]
    assert word in last["sites"]["river"].get("reason", "") + last["sites"]["river"]["status"]
    assert len(result["notes"]) == 1
    assert "student, round 2: river" in result["notes"][0]
    assert "DOE" not in "".join(p.read_text() for p in (world.folder / "run").glob("*.json*"))
    np.testing.assert_array_equal(world.student(result)["trunk.w"], np.full(4, 2.0))


def test_all_failing_is_a_failed_study(world: World) -> None:
    """STR-305 with every site's reason; what was reached stays recorded."""
    broken = Answer(None, "STR-401", 1.0)
    result = world.run(lambda c: broken if (c.kind, c.task.stage) == (ROUND, "student") else None)

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
    result = world.run(fault, quorum={"min_sites": 2})

    assert isinstance(world.error, ContractError)
    assert result["error"]["code"] == "STR-306"


def test_label_nobody_owns_is_known_before_any_stage(world: World) -> None:
    """STR-104 after the inventory, not after an hour of other stages."""
    result = world.run(names=("river",))
    exchange = world.exchange

    assert isinstance(world.error, ConfigError)
    assert result["error"]["code"] == "STR-104"
    assert "hinge" in result["error"]["what"]
    assert {call.kind for call in exchange.asked} == {INVENTORY}
    assert world.events("stage.opened") == []


@pytest.mark.parametrize("answer", [LATE, Answer(None, "STR-410", 1.0)])
def test_site_without_an_inventory_takes_no_part(world: World, answer: Answer) -> None:
    """It is left out and named; the others go on without it."""
    result = world.run(at(INVENTORY, "summit", answer))
    exchange = world.exchange

    assert world.error is None
    assert "summit takes no part" in result["notes"][0]
    assert {call.site for call in exchange.asked if call.kind == STAGE} == {"harbour", "river"}


def test_site_without_cases_is_noted(world: World) -> None:
    """It is connected and has nothing: participation was not complete, and the notes say so."""
    nothing = Answer(Reply(metrics={"inventory.cases": 0}), None, 1.0)
    result = world.run(at(INVENTORY, "summit", nothing))

    assert world.error is None
    assert result["notes"] == ["summit has no usable case."]
    assert result["complete_participation"] is False


def test_a_site_that_cannot_score_is_a_note(world: World) -> None:
    """Scores of the others are kept; the table pools what there is."""
    result = world.run(at(STAGE, "summit", LATE, stage="student"))

    assert world.error is None
    assert any("summit could not be scored" in note for note in result["notes"])
    assert "summit" not in result["metrics"]


def test_a_bug_is_a_failed_study_too(world: World) -> None:
    """Every way out leaves a result: whoever watches would wait for ever otherwise."""

    def fault(call: Call) -> None:
        if call.task.stage == "student":
            raise RuntimeError("DOE^JANE")

    result = world.run(fault)

    assert isinstance(world.error, RuntimeError)
    assert (result["status"], result["error"]["code"]) == ("failed", "STR-505")
    assert "DOE" not in json.dumps(result)
    assert world.events("study.finished")[-1]["status"] == "failed"


# -- what survives -----------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: nothing is caught, nothing is tidied."""


@dataclass
class Plug:
    """Pulled at the n-th durable write, before or after it."""

    countdown: int
    after: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count every file that is put in place, and every removal."""
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self.wrap(getattr(Path, name)))
        monkeypatch.setattr("os.replace", self.wrap(os.replace))

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with the plug in it."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.countdown -= 1
            if self.countdown == 0 and not self.after:
                raise Killed
            answer = call(*arguments, **named)
            if self.countdown == 0:
                raise Killed
            return answer

        return wrapped


def outcome_of(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its times."""
    text = json.dumps(result)
    for key in ("seconds", "started_at"):
        text = re.sub(rf'"{key}": [0-9.e+-]+', f'"{key}": 0', text)
    return dict(json.loads(text))


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_write(tmp_path: Path, after: bool) -> None:
    """Whatever was on its way to disk: the same student, every round once, nothing left over."""
    whole = World(tmp_path / "whole")
    expected = outcome_of(whole.run())
    step, kills, previous = 11, 0, 0
    for number in range(1 + 5 * after, 1000, step):
        world = World(tmp_path / str(number), logged=True)
        fault = at(ROUND, "river", Answer(None, "STR-401", 1.0), stage="t-vessels", number=9)
        plug = Plug(number, after)
        with pytest.MonkeyPatch.context() as patch:
            exchange = FakeExchange(world.depot, fault=fault)
            run = world.start(exchange)
            plug.install(patch)
            try:
                run.run()
            except Killed:
                kills += 1
        assert outcome_of(world.run()) == expected, number
        commits = [(e.stage, e.round) for e in world.entries(RoundCommitted)]
        assert len(commits) == len(set(commits)) == 6, number
        assert not tell(enumerate(world.entries())).strays, number
        assert len(world.entries(StudyFinished)) == 1, number
        closed = [(e["stage"], e["round"]) for e in world.events("round.closed")]
        assert sorted(set(closed)) == sorted(closed), number
        assert len(closed) == 6
        assert len(world.events("study.finished")) == 1
        assert not [p for p in (world.folder / "depot" / "in").rglob("*") if p.is_file()], number
        if plug.countdown > 0:
            break
        previous = number
    assert kills > 10, previous


def test_a_round_is_asked_again_and_no_other(world: World) -> None:
    """A signal in the middle of the student's second round: that round is repeated, nothing before."""

    def fault(call: Call) -> None:
        if (call.kind, call.task.stage, call.task.round) == (ROUND, "student", 2):
            raise SystemExit(0)

    exchange = FakeExchange(world.depot, fault=fault)
    with pytest.raises(SystemExit):
        world.start(exchange).run()
    assert not (world.folder / "run" / "result.json").exists()
    assert world.events("study.paused")
    result = world.run()

    assert result["status"] == "completed"
    assert [(c.kind, c.task.stage, c.task.round) for c in world.exchange.asked[:2]] == [
        (ROUND, "student", 2),
        (ROUND, "student", 2),
    ]
    assert [e["closed"]["student"] for e in world.events("study.resumed")] == [1]
    np.testing.assert_array_equal(world.student(result)["trunk.w"], np.full(4, 2.0))


def test_pause_and_end(world: World) -> None:
    """A pause is no end; an end is one, with STR-508, wherever the study was."""
    asked: list[Call] = []

    def stop() -> None:
        if len(asked) == 1:
            raise Paused("lunch")
        if len(asked) > 1:
            raise Ended

    world.heed = stop
    exchange = FakeExchange(world.depot, asked=asked)
    with pytest.raises(Paused):
        world.start(exchange).run()
    assert world.events("study.paused")[-1]["reason"] == "lunch"
    assert not (world.folder / "run" / "result.json").exists()

    asked *= 2
    world.start(FakeExchange(world.depot, asked=asked)).run()
    result = json.loads((world.folder / "run" / "result.json").read_text())
    assert (result["status"], result["error"]["code"]) == ("failed", "STR-508")
    assert len(world.events("study.finished")) == 1


def test_ending_a_study_nobody_works_on(world: World) -> None:
    """Without a site, without a server; and what has ended already stays as it ended."""
    run = world.start(FakeExchange(world.depot))
    run.end(ContractError("x", fix="y", code="STR-306"))
    run = world.start(FakeExchange(world.depot))
    run.end(ContractError("x", fix="y", code="STR-305"))
    result = json.loads((world.folder / "run" / "result.json").read_text())

    assert result["error"]["code"] == "STR-306"


def test_a_full_disk_is_a_pause(world: World) -> None:
    """STR-503 to whoever watches; after room was made, the study goes on."""

    def fault(call: Call) -> None:
        if call.task.stage == "student":
            raise OSError(errno.ENOSPC, "DOE^JANE")

    with pytest.raises(Paused) as caught:
        world.start(FakeExchange(world.depot, fault=fault)).run()
    assert caught.value.give_up
    assert world.events("study.paused")[-1]["reason"].startswith("STR-503")
    assert world.run()["status"] == "completed"
    assert "DOE" not in (world.folder / "run" / "events.jsonl").read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"stillroom-run-1"', '"stillroom-run-9"'),
        lambda text: re.sub(r'"study": "[0-9a-f]{64}"', f'"study": "{"0" * 64}"', text),
        lambda text: text.replace('"phase": "done"', '"phase": "lunch"'),
    ],
)
def test_a_damaged_state_is_never_guessed_at(world: World, spoil: Callable[[str], str]) -> None:
    """STR-514, and nothing in the folder is changed."""
    world.run()
    path = world.folder / "run" / "state.json"
    path.write_text(spoil(path.read_text()))
    before = {p: p.read_bytes() for p in (world.folder / "run").rglob("*") if p.is_file()}

    with pytest.raises(TrustError) as caught:
        world.start(FakeExchange(world.depot)).run()
    assert caught.value.code == "STR-514"
    assert {p: p.read_bytes() for p in (world.folder / "run").rglob("*") if p.is_file()} == before


def test_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    """Sums are made in the order of names, so the student is the same to the bit."""
    forth, back = World(tmp_path / "forth"), World(tmp_path / "back")
    expected = outcome_of(forth.run())
    exchange = FakeExchange(back.depot, backwards=True)
    back.start(exchange).run()

    assert outcome_of(json.loads((back.folder / "run" / "result.json").read_text())) == expected


def test_a_missing_file_is_refused(world: World) -> None:
    """STR-311: the reply names an update that never arrived, or whose bytes are others."""

    def missing(call: Call) -> Answer | None:
        if (call.kind, call.site, call.task.stage) != (ROUND, "river", "student"):
            return None
        base = call.task.models["student"].sha256
        update = UpdateRef("fp32", base, "ab" * 32, len(serialise(START)))
        return Answer(Reply(update, {"trunk": 1}), None, 1.0)

    result = world.run(missing)

    sites = result["stages"][-1]["rounds"][0]["sites"]
    assert sites["river"]["reason"].startswith("STR-311")
    assert result["status"] == "completed"


def test_late_answers_are_written_down_and_dropped(world: World) -> None:
    """An answer to an earlier call comes during a later one: an event, no sum, no file left."""
    late: list[tuple[Call, Answer]] = []

    class Slow(FakeExchange):
        def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
            """River's first update comes in the second round."""
            if (calls[0].kind, calls[0].task.stage, calls[0].task.round) == (ROUND, "student", 2):
                yield from late
            for call, answer in super().ask(calls, awaited=awaited):
                if (call.kind, call.site, call.task.stage) == (
                    ROUND,
                    "river",
                    "student",
                ) and not late:
                    late.append((call, answer))
                else:
                    yield call, answer

    world.start(Slow(world.depot)).run()
    result = json.loads((world.folder / "run" / "result.json").read_text())
    first, second = result["stages"][-1]["rounds"]

    assert (first["order"], second["order"]) == (["harbour"], ["harbour", "river"])
    assert first["sites"]["river"]["status"] == "late"
    assert [(e["site"], e["round"]) for e in world.events("site.late")] == [("river", 1)]
    assert not [p for p in (world.folder / "depot" / "in").rglob("*") if p.is_file()]


def test_what_a_round_keeps(world: World) -> None:
    """The digest of every update, and on disk only the models that the study still names."""
    result = world.run()
    record = json.loads((world.folder / "run" / "round-student-0002.json").read_text())
    first = json.loads((world.folder / "run" / "round-student-0001.json").read_text())

    assert record["sites"]["river"]["update"]["base"] == first["model_sha256"]
    assert len(record["sites"]["river"]["update"]["sha256"]) == 64
    kept = {path.stem for path in (world.folder / "run" / "weights").iterdir()}
    assert kept == set(result["models"].values())


def test_one_process_a_folder(tmp_path: Path) -> None:
    """STR-512 for the second; free again when the first is gone, however it went."""
    assert is_free(tmp_path)
    with claimed(tmp_path):
        assert not is_free(tmp_path)
        with pytest.raises(StillroomError) as caught, claimed(tmp_path):
            pass
        assert caught.value.code == "STR-512"
    assert is_free(tmp_path)


# -- what the log says ------------------------------------------------------------------------


def test_the_log_tells_the_whole_study(told: World) -> None:
    """Every stage, question, answer and model, in an order an auditor's reader accepts."""
    result = told.run()
    history = tell(enumerate(told.entries()))

    assert history.strays == []
    assert [entry.act for entry in told.entries(StudyStarted)] == ["started"]
    (run,) = history.runs
    assert list(run.stages) == ["t-vessels", "t-hinge", "label", "student"]
    assert {n: s.model for n, s in run.stages.items() if s.model} == result["models"]
    assert run.student() == result["student"]["sha256"]
    for name, stage in run.stages.items():
        for number, turn in stage.rounds.items():
            assert turn.commit is not None
            record = told.folder / "run" / f"round-{name}-{number:04d}.json"
            assert turn.commit[1].record_sha256 == file_digest(record)
            assert set(turn.commit[1].order) == turn.invited == set(turn.answers())
    assert run.stages["label"].opened.teachers == {
        name: result["models"][name] for name in ("t-vessels", "t-hinge")
    }
    labelled = [e for e in told.entries(Update) if e.stage == "label"]
    assert [e.counts for e in labelled] == [{"pseudo.vessels.written": 3}] * len(labelled)
    assert [(e.stage, e.round, e.sites) for e in told.entries(Scored)][-1][:2] == ("student", 2)
    (finish,) = told.entries(StudyFinished)
    assert finish.result_sha256 == file_digest(told.folder / "run" / "result.json")
    assert (finish.run, finish.status, finish.complete_participation) == (
        "trial",
        "completed",
        True,
    )
    assert finish.models == result["models"]


def test_who_is_missing_is_in_the_log(told: World) -> None:
    """Late, refused, failed: each with its code, and the commit says that it is a subset."""
    broken = Answer(None, "STR-401", 1.0)
    told.run(at(ROUND, "river", broken, stage="student", number=2))

    (update,) = [e for e in told.entries(Update) if e.status != "admitted"]
    assert (update.site, update.status, update.code) == ("river", "failed", "STR-401")
    commit = told.entries(RoundCommitted)[-1]
    assert (commit.order, commit.expected) == (("harbour",), ("harbour", "river"))
    assert commit.missing["river"].startswith("STR-401")
    assert told.entries(StudyFinished)[0].complete_participation is False


def test_a_failed_study_is_in_the_log(told: World) -> None:
    """With the answers of the round that could not be committed."""
    broken = Answer(None, "STR-401", 1.0)
    told.run(lambda c: broken if (c.kind, c.task.stage) == (ROUND, "student") else None)

    (finish,) = told.entries(StudyFinished)
    assert (finish.status, finish.code) == ("failed", "STR-305")
    assert [e.status for e in told.entries(Update)][-2:] == ["failed", "failed"]
    assert "student" not in {e.stage for e in told.entries(RoundCommitted)}


def test_sites_are_in_the_log_before_they_are_asked(told: World) -> None:
    """The question is durable before it leaves; the model is, too."""

    def fault(call: Call) -> None:
        if call.kind in {ROUND, LABEL}:
            opened = told.entries(RoundOpened)
            key = (call.task.stage, call.task.round)
            assert key in {(e.stage, e.round) for e in opened}
            assert call.task.stage in {e.stage for e in told.entries(StageOpened)}

    told.run(fault)
    assert told.error is None


def test_a_resumed_round_names_whom_it_lost(told: World) -> None:
    """River was asked, then the process died, and river takes part no more: the log says so."""

    def fault(call: Call) -> None:
        if (call.kind, call.task.stage, call.task.round) == (ROUND, "student", 2):
            raise Killed

    with pytest.raises(Killed):
        told.start(FakeExchange(told.depot, fault=fault)).run()
    run = told.start(FakeExchange(told.depot))
    run.consents = lambda: {"harbour": "given", "summit": "given", "river": "withdrawn"}
    run.run()

    commit = told.entries(RoundCommitted)[-1]
    assert commit.order == ("harbour",)
    assert commit.missing == {"river": "consent withdrawn"}
    assert [e.act for e in told.entries(StudyStarted)] == ["started", "resumed"]


class Vouching(FakeExchange):
    """Sites that cosign the log when they are asked for a round."""

    book: Logbook
    silent: tuple[str, ...] = ()

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """As usual, after a look at the log."""
        log = self.book.log
        for call in calls:
            if call.site not in self.silent:
                key = Ed25519PrivateKey.from_private_bytes(call.site.encode().ljust(32))
                _, note = read_checkpoint(log.folder, log.verifier)
                own = type(note)(note.text, note.signatures[:1])
                mine = cosign(own, call.site, key, 1)
                body = type(note)(note.text, (*own.signatures, mine)).to_bytes()
                public = key.public_key().public_bytes_raw().hex()
                self.book.cosigned.take(log, call.site, public, body)
        yield from super().ask(calls, awaited=awaited)


def test_cosignatures_are_in_record_and_log(told: World) -> None:
    """Who vouched for the log in which the round before stands."""
    exchange = Vouching(told.depot)
    exchange.book = told.book
    told.start(exchange, quorum={"witnesses": 2}).run()
    record = json.loads((told.folder / "run" / "round-student-0002.json").read_text())

    assert record["witnessed"]["sites"] == ["harbour", "river"]
    assert len(told.entries(Witnessed)) >= 4
    assert told.entries(StudyStarted)[0].witnesses == 2


def test_too_few_witnesses_end_a_study(told: World) -> None:
    """STR-223, and no round counts that they did not vouch for."""
    exchange = Vouching(told.depot)
    exchange.book, exchange.silent = told.book, ("river",)
    with pytest.raises(ContractError) as caught:
        told.start(exchange, quorum={"witnesses": 2, "deadline_s": 0.2, "grace_s": 0.1}).run()

    assert caught.value.code == "STR-223"
    assert told.entries(RoundCommitted) == []
    assert told.entries(StudyFinished)[0].code == "STR-223"


@pytest.mark.parametrize(("kept", "rounds"), [("all", 5), ("last", 3)])
def test_rounds_are_made_again_to_the_bit(told: World, kept: str, rounds: int) -> None:
    """Whatever was kept gives the model of the log; one byte changed gives another, or none."""
    exchange = FakeExchange(told.depot, backwards=True)
    told.start(exchange, retain_updates=kept).run()
    history = tell(enumerate(told.entries()))
    made = list(replay(history, told.folder / "run"))

    assert len(made) == rounds
    assert all(one.identical for one in made), made
    path = next((told.folder / "run" / "updates").glob("student/0002/from.*"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (spoilt,) = replay(history, told.folder / "run", stage="student", number=2)
    assert not spoilt.identical
    assert "is not the one in the log" in spoilt.why


def test_nothing_is_kept_unless_the_study_says_so(told: World) -> None:
    """The default keeps no update of anybody."""
    told.run()

    assert not (told.folder / "run" / "updates").exists()
    with pytest.raises(StillroomError):
        list(replay(tell(enumerate(told.entries())), told.folder / "run"))


def test_scores_are_in_the_log_by_digest(told: World) -> None:
    """The numbers are in the run's folder; the log says which."""
    told.run()
    scores = json.loads((told.folder / "run" / "scores-student-0001.json").read_text())

    (first,) = [e for e in told.entries(Scored) if (e.stage, e.round) == ("student", 1)]
    assert first.scores_sha256 == digest(scores)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_between_state_and_log(told: World, moment: str) -> None:
    """Every step once: the next process says what the state holds, and not what the log has."""
    whole = World(told.folder / "whole", logged=True)
    whole.run()
    expected = [type(e) for e in whole.entries() if not isinstance(e, StudyStarted | RoundOpened)]
    for number in range(1, 12):
        one = World(told.folder / f"killed-{number}", logged=True)
        left = number

        def kill(real: Callable[..., Any]) -> Callable[..., Any]:
            def append_made(log: Log, make: Any) -> range:
                nonlocal left
                left -= 1
                if left == 0 and moment == "before":
                    raise Killed
                done = real(log, make)
                if left == 0:
                    raise Killed
                return done

            return append_made

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Log, "append_made", kill(Log.append_made))
            with pytest.raises(Killed):
                one.start(FakeExchange(one.depot)).run()
        assert one.run()["status"] == "completed"
        found = [type(e) for e in one.entries() if not isinstance(e, StudyStarted | RoundOpened)]
        assert found == expected, number
        assert not tell(enumerate(one.entries())).strays


def test_a_release_is_proven_by_the_log(told: World) -> None:
    """Statement, entry and proof agree with the log and the files; a failed run has none."""
    told.run()
    release, called = told.folder / "release", list[str]()
    release.mkdir()
    (release / "model.safetensors").write_bytes(b"weights")
    study = told.entries(StudyStarted)[0].study
    index = prove_release(told.book, release, study, settle=lambda: called.append("settled"))
    raw = (release / "proof" / "entry.json").read_bytes()
    proof = parse_proof((release / "proof" / "entry.tlog-proof").read_bytes())
    statement = (release / "proof" / "statement.json").read_bytes()

    assert called == ["settled"]
    assert (proof.index, len(told.entries())) == (index, index + 1)
    proof.verify(leaf_hash(raw), told.book.log.verifier)
    entry = parse_entry(raw)
    assert isinstance(entry, Release)
    assert entry.statement_sha256 == hashlib.sha256(statement).hexdigest()
    assert list(subject_problems(parse_statement(statement), files_of(release))) == []
    (release / "model.safetensors").write_bytes(b"others")
    assert len(list(subject_problems(parse_statement(statement), files_of(release)))) == 1
    with pytest.raises(ConfigError):
        prove_release(told.book, release, "ab" * 32)


def test_a_subset_has_an_exit_status(told: World) -> None:
    """0 when everybody took part in everything; 7 when the result is one from a subset."""
    told.run()
    whole = CliRunner().invoke(run_app, ["watch", str(told.folder / "run")])
    other = World(told.folder / "other", logged=True)
    other.run(at(STAGE, "summit", LATE, stage="student"))
    part = CliRunner().invoke(run_app, ["watch", str(other.folder / "run")])

    assert (whole.exit_code, part.exit_code) == (0, 7)
    assert "subset" in part.output


# -- who comes later ----------------------------------------------------------------------------


def test_a_newcomer_takes_part_from_the_next_round(told: World) -> None:
    """Who missed the first question is asked along with a round, and then trains like the others."""

    def away(call: Call) -> Answer | None:
        asked = [c for c in told.exchange.asked if (c.kind, c.site) == (INVENTORY, "river")]
        return LATE if (call.kind, call.site) == (INVENTORY, "river") and len(asked) < 3 else None

    extra = {"harbour": {**SITES["harbour"], "inventory.vessels.cases": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SITES, "harbour", extra["harbour"])
        result = told.run(away)
    opened = [e for e in told.events("round.opened") if e["stage"] == "t-vessels"]
    first, second = (e for e in told.entries(RoundOpened) if e.stage == "t-vessels")

    assert told.error is None
    assert [e["invited"] for e in opened] == [["harbour"], ["harbour"]]
    assert "inventory" in opened[0]["left_out"]["river"]
    assert "inventory" in first.left_out["river"] + second.left_out["river"]
    assert [e.invited for e in told.entries(RoundOpened) if e.stage == "student"] == [
        ("harbour", "river"),
        ("harbour", "river"),
    ]
    assert "river joined late" in "".join(result["notes"])
    assert {site["name"] for site in result["sites"]} == set(SITES)
    assert not tell(enumerate(told.entries())).strays


def test_a_newcomer_that_was_not_recorded_is_asked_again(world: World) -> None:
    """Killed between its answer and the commit: the round is made again, and it joins after it."""

    def missing(call: Call) -> Answer | None:
        first = not any(c.kind == ROUND for c in world.exchange.asked)
        return LATE if (call.kind, call.site) == (INVENTORY, "river") and first else None

    save, left = RunFolder.save, 3

    def kill(folder: RunFolder, state: Any) -> None:
        nonlocal left
        left -= state.closed != {}
        if left == 2:
            raise Killed
        save(folder, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SITES, "harbour", {**SITES["harbour"], "inventory.vessels.cases": 1})
        patch.setattr(RunFolder, "save", kill)
        with pytest.raises(Killed):
            world.run(missing)
        assert (
            "river"
            not in json.loads((world.folder / "run" / "state.json").read_text())["inventories"]
        )
        result = world.run()
    last = [e for e in world.events("round.opened") if e["stage"] == "t-vessels"]

    assert result["status"] == "completed"
    assert [e["round"] for e in last] == [1, 1, 2]
    assert [e["invited"] for e in last][1:] == [["harbour"], ["harbour", "river"]]


def test_two_runs_of_one_study_take_nothing_from_each_other(tmp_path: Path) -> None:
    """One stands in a round while the other one is run to its end: both give the same student."""
    one, other = World(tmp_path / "a"), World(tmp_path / "b")
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "depot").symlink_to(tmp_path / "a" / "depot")
    uploads = tmp_path / "a" / "depot" / "in"
    done = list[dict[str, Any]]()

    def beside(call: Call) -> None:
        # Harbour's update of this round is here and is summed later; river is yet to answer.
        if (call.kind, call.task.stage, call.site) == (ROUND, "student", "river") and not done:
            done.append(other.run())

    result = one.run(beside)

    assert one.error is None
    assert other.error is None
    assert (result["notes"], done[0]["notes"]) == ([], [])
    assert outcome_of(result)["student"] == outcome_of(done[0])["student"]
    assert not [p for p in uploads.rglob("*") if p.is_file()]
    assert not list((tmp_path / "a" / "depot" / "out").iterdir())


def test_what_a_dead_process_left_is_removed_at_the_end(world: World) -> None:
    """An update that nobody asked for any more when it came, and a part of one."""
    data = b"late"
    world.depot.append("river", hashlib.sha256(data).hexdigest(), [data], offset=0, total=4)
    world.depot.append("river", "ab" * 32, [data], offset=0, total=9)
    world.run()

    assert not [p for p in (world.folder / "depot" / "in").rglob("*") if p.is_file()]
