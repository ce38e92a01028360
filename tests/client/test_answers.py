"""Finished answers: given again as they were, or not at all."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillroom.client import answers as module
from stillroom.client.answers import Answers
from stillroom.client.exchange import ExchangeFolder
from stillroom.client.recipes import memory as memory_module
from stillroom.client.recipes.context import RoundResult
from stillroom.common.errors import ResourceError
from stillroom.common.messages import LABEL, ROUND, STAGE, ModelRef, Reply, Task

MODEL = ModelRef("a" * 64, 100)
TASK = Task("d" * 64, "teach", 3, {"teach": MODEL})
METRICS = {"train.loss": 0.1 + 0.2, "train.cases": 7}


def learned(value: float) -> RoundResult:
    return RoundResult({"w": np.full((2, 3), value, np.float32)}, {"trunk": 7}, METRICS)


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """Of a site that has answered nothing yet."""
    return Answers(tmp_path / "answers", ExchangeFolder(tmp_path / "exchange").prepare(), 7)


def updates(answers: Answers) -> list[str]:
    return sorted(path.name for path in answers.exchange.updates.iterdir())


def run(answers: Answers, task: Task, step: float) -> Reply:
    """One round as the app does it: what is remembered grows by one step."""
    memory = answers.memory(ROUND, task)
    before = memory.load()
    steps = np.zeros(1) if before is None else before["steps"]
    memory.save({"steps": steps + step})
    return answers.keep(ROUND, task, learned(float(steps[0])), memory.saved)


def test_the_same_task_gets_the_same_answer(answers: Answers) -> None:
    """To the last bit of its numbers, from another process too, and its update is where it was."""
    assert answers.find(ROUND, TASK) is None
    given = answers.keep(ROUND, TASK, learned(1))

    again = Answers(answers.folder, answers.exchange, 7).find(ROUND, TASK)

    assert again == given
    assert again is not None
    assert again.update is not None
    assert (again.update.encoding, again.update.base) == ("fp32", MODEL.sha256)
    assert (again.metrics, again.samples) == (METRICS, {"trunk": 7})
    assert updates(answers) == [f"{again.update.sha256}.safetensors"]
    assert answers.exchange.update(again.update.sha256).stat().st_size == again.update.nbytes


@pytest.mark.parametrize(
    "other",
    [
        replace(TASK, round=2),
        replace(TASK, round=4),
        replace(TASK, study="e" * 64),
        replace(TASK, stage="student"),
        replace(TASK, models={"teach": replace(MODEL, sha256="b" * 64)}),
        replace(TASK, models={"teach": MODEL, "more": MODEL}),
        replace(TASK, models={}),
    ],
)
def test_another_task_gets_no_answer(answers: Answers, other: Task) -> None:
    """Study, stage, round and every model are part of the question."""
    answers.keep(ROUND, TASK, learned(1))

    assert answers.find(ROUND, other) is None
    assert answers.find(STAGE, TASK) is None


def test_how_a_model_travels_is_no_part_of_the_question(answers: Answers) -> None:
    """A site that comes back without the base is given the whole file, and need not train again."""
    given = answers.keep(ROUND, TASK, learned(1))

    assert answers.find(ROUND, replace(TASK, models={"teach": replace(MODEL, delta=None)})) == given


def test_counts_and_scores_have_no_update(answers: Answers) -> None:
    """Labelling and scoring are kept as well: they may take as long as training."""
    task = Task("d" * 64, "label", 1, {"teach": MODEL})
    given = answers.keep(LABEL, task, RoundResult(None, {}, {"pseudo.vessels.written": 4}))

    assert given == Reply(None, {}, {"pseudo.vessels.written": 4})
    assert answers.find(LABEL, task) == given


def test_one_answer_per_stage_and_kind(answers: Answers) -> None:
    """A new answer takes the place of its stage's last one, and its update's file."""
    answers.keep(ROUND, TASK, learned(1))
    other = replace(TASK, stage="student", models={"student": MODEL})
    kept = answers.keep(ROUND, other, learned(2))
    (answers.exchange.updates / ".123-456.tmp").write_bytes(b"what a killed runner left")
    latest = answers.keep(ROUND, replace(TASK, round=4), learned(3))

    assert answers.find(ROUND, TASK) is None
    assert answers.find(ROUND, other) == kept
    names = [reply.update.sha256 for reply in (kept, latest) if reply.update is not None]
    assert updates(answers) == sorted(f"{name}.safetensors" for name in names)


def test_equal_updates_of_two_stages_share_a_file(answers: Answers) -> None:
    """It stays until the last answer that names it is replaced."""
    other = replace(TASK, stage="student", models={"student": MODEL})
    answers.keep(ROUND, TASK, learned(1))
    kept = answers.keep(ROUND, other, learned(1))
    answers.keep(ROUND, replace(TASK, round=4), learned(2))

    assert answers.find(ROUND, other) == kept
    assert len(updates(answers)) == 2


def answer_file(answers: Answers) -> Path:
    (path,) = answers.folder.glob("*.json")
    return path


def update_file(answers: Answers) -> Path:
    (path,) = answers.exchange.updates.iterdir()
    return path


def changed_number(answers: Answers) -> None:
    path = answer_file(answers)
    value = json.loads(path.read_bytes())
    value["answer"]["samples"]["trunk"] = 8
    path.write_text(json.dumps(value))


DAMAGE: dict[str, Callable[[Answers], object]] = {
    "answer empty": lambda a: answer_file(a).write_bytes(b""),
    "answer cut": lambda a: os.truncate(answer_file(a), 40),
    "answer of another kind": lambda a: answer_file(a).write_text("[1]"),
    "a number changed": changed_number,
    "update gone": lambda a: update_file(a).unlink(),
    "update cut": lambda a: os.truncate(update_file(a), 40),
    "update changed": lambda a: update_file(a).write_bytes(update_file(a).read_bytes()[:-1] + b"x"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_answer_is_none(answers: Answers, damage: str) -> None:
    """The work is done again, and the next answer is whole."""
    given = answers.keep(ROUND, TASK, learned(1))
    DAMAGE[damage](answers)

    assert answers.find(ROUND, TASK) is None
    assert answers.keep(ROUND, TASK, learned(1)) == given
    assert answers.find(ROUND, TASK) == given


def test_an_old_answer_is_none(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pseudo-labels it counts are gone by then; a clock that was set back changes nothing."""
    given = answers.keep(ROUND, TASK, learned(1))
    now = module.time.time()

    for days, found in ((6.9, given), (-1, given), (7.1, None)):
        monkeypatch.setattr(module.time, "time", lambda days=days: now + days * 86400)
        assert answers.find(ROUND, TASK) == found


def test_new_cases_make_old_answers_void(answers: Answers) -> None:
    """What a stage remembers stays: it belongs to the weights, not to the question."""
    run(answers, TASK, 1)
    answers.forget()

    assert answers.find(ROUND, TASK) is None
    later = answers.memory(ROUND, replace(TASK, round=4)).load()
    assert later is not None
    assert later["steps"] == 1


def test_memory_makes_one_step_a_round(answers: Answers) -> None:
    """A round that is worked out twice starts from the same memory each time."""
    for number in (1, 2, 3):
        task = replace(TASK, round=number)
        run(answers, task, 1)
        run(answers, task, 1)
        answers.memory(ROUND, task).save({"steps": np.full(1, 99.0)})  # killed before the commit

    after = answers.memory(ROUND, replace(TASK, round=4)).load()
    assert after is not None
    assert after["steps"] == 3
    assert len(list((answers.folder / "memory").iterdir())) == 3  # of rounds 2 and 3, and the 99

    run(answers, replace(TASK, round=4), 1)
    assert len(list((answers.folder / "memory").iterdir())) == 2


def test_memory_of_a_later_round_is_not_used(answers: Answers) -> None:
    """A study that is run anew starts anew; a site that missed rounds goes on where it was."""
    for number in (2, 3):
        run(answers, replace(TASK, round=number), 1)

    assert answers.memory(ROUND, replace(TASK, round=1)).load() is None
    assert answers.memory(ROUND, replace(TASK, round=2)).load() is None
    missed = answers.memory(ROUND, replace(TASK, round=9)).load()
    assert missed is not None
    assert missed["steps"] == 2


def test_scoring_sees_what_training_left(answers: Answers) -> None:
    """What never left the site is part of the model that is scored, as the round before left it."""
    for number in (2, 3):
        run(answers, replace(TASK, round=number), 1.0)

    found = {n: answers.memory(STAGE, replace(TASK, round=n)).load() for n in (1, 2, 3, 4)}
    answers.keep(STAGE, TASK, RoundResult(None, {}, {"eval.cases": 1}))

    assert found[1] is None
    assert [float(one["steps"][0]) for one in found.values() if one is not None] == [1.0, 2.0, 2.0]
    kept = answers.memory(ROUND, replace(TASK, round=4)).load()
    assert kept is not None
    assert kept["steps"][0] == 2.0


def test_lost_memory_is_no_memory(answers: Answers) -> None:
    """A file that is gone or damaged is as none: training starts with a fresh optimiser."""
    run(answers, TASK, 1)
    (file,) = (answers.folder / "memory").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    assert answers.memory(ROUND, replace(TASK, round=4)).load() is None


@pytest.mark.parametrize("step", ["update", "memory", "commit"])
def test_a_full_disk_is_told_and_loses_nothing(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The round before stays the last one; with room again, the same work is done and kept."""
    run(answers, TASK, 1)
    task = replace(TASK, round=4)
    where, name = {
        "update": (module, "write_weights"),
        "memory": (memory_module, "write_weights"),
        "commit": (module, "write_durably"),
    }[step]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, full)
        with pytest.raises(ResourceError) as caught:
            run(answers, task, 1)
    assert caught.value.code == "STR-503"
    assert answers.find(ROUND, TASK) is not None
    assert answers.find(ROUND, task) is None
    run(answers, task, 1)
    after = answers.memory(ROUND, replace(TASK, round=5)).load()
    assert after is not None
    assert after["steps"] == 2
