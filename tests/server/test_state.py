"""Where a study is: any sequence of events leads to an end, and any state is enough to go on from."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.common.errors import TrustError
from stillroom.common.messages import Delta, ModelRef
from stillroom.common.study import Study
from stillroom.server.rounds.schedule import exchanges_weights, waves
from stillroom.server.rounds.state import RunState, active, files_of, to_check, wave_of


def study(teachers: list[int], student: int, every: int) -> Study:
    labels = {f"l{n}": {"kind": "mask", "classes": ["AO"]} for n in range(len(teachers))}
    stages: list[dict[str, Any]] = [
        {"name": f"t{n}", "recipe": "teach", "label": f"l{n}", "rounds": rounds}
        for n, rounds in enumerate(teachers)
    ]
    stages.append({"name": "label", "recipe": "pseudolabel", "teachers": ["t0"]})
    stages.append(
        {"name": "student", "recipe": "distil", "rounds": student, "evaluate_every": every}
    )
    return Study.parse(
        {
            "study": {"name": "steps"},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": labels,
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 8]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": stages,
        }
    )


STUDIES = st.builds(
    study,
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(0, 3),
)
ERROR = {"code": "STR-306", "what": "x", "fix": "y", "exit_status": 4}


def model(stage: str, number: int) -> ModelRef:
    """A name that says which stage and round made it."""
    name = f"{stage}-{number}"
    return ModelRef(name, 10, Delta(f"{stage}-{number - 1}", name + "d", 3) if number else None)


def step(plan: Study, state: RunState, luck: float) -> RunState:
    """The next step, as a study's process would make it; little luck ends the study."""
    if luck < 0.02:
        return state.failed(ERROR)
    trained = [s.name for s in wave_of(plan, state) if exchanges_weights(s)]
    if state.phase == "inventory":
        return state.counted({"north": {"inventory.cases": 3.0}})
    if state.phase == "wave":
        return state.opened(plan, {name: model(name, 0) for name in trained})
    if state.phase == "round":
        names = [s.name for s in active(plan, state) if exchanges_weights(s)]
        late = ("north",) if luck < 0.3 else ()
        made = {name: model(name, state.number) for name in names}
        return state.noted("n").committed(plan, made, dict.fromkeys(names, luck), late)
    if state.phase == "check":
        return state.checked(plan)
    return state.scored(plan, {name: {"north": {"x": luck}} for name in trained})


def through_disk(state: RunState) -> RunState:
    """What another process reads."""
    return RunState.from_json(json.loads(json.dumps(state.as_json())))


@settings(max_examples=60, deadline=None)
@given(STUDIES, st.lists(st.floats(0, 1), min_size=60, max_size=60), st.sets(st.integers(0, 59)))
def test_every_study_ends_and_any_state_is_enough(
    plan: Study, luck: list[float], killed: set[int]
) -> None:
    """With a process that is killed after any steps, the same end as without; never without end."""
    start = RunState(study="d" * 64, started_at=1.5)
    ends = []
    for kills in (set(), killed):
        state = start
        for number, chance in enumerate(luck):
            if state.final:
                break
            before = state
            state = step(plan, state, chance)
            assert state.step == before.step + 1
            if number in kills:
                # Killed after the commit: another process reads it. Killed before: it reads the
                # one before, and makes the same step.
                assert step(plan, through_disk(before), chance) == state
                state = through_disk(state)
        assert state.final
        ends.append(state)
    assert ends[0] == ends[1]
    if ends[0].error is None:
        assert ends[0].closed == {stage.name: stage.rounds for stage in plan.stage}
        assert ends[0].models["student"] == model("student", plan.stage[-1].rounds)
        assert set(ends[0].scores) == {s.name for s in plan.stage if exchanges_weights(s)}


@given(STUDIES)
def test_each_round_of_each_stage_once(plan: Study) -> None:
    """No round is left out or made twice, and models are scored on their way as often as asked."""
    state, rounds, checks = RunState(study="d", started_at=0), [], 0
    while not state.final:
        if state.phase == "round":
            rounds += [(stage.name, state.number) for stage in active(plan, state)]
        if state.phase == "check":
            checks += len(to_check(plan, state))
        state = step(plan, state, 1.0)

    wanted = [(s.name, n) for s in plan.stage for n in range(1, s.rounds + 1)]
    assert sorted(rounds) == sorted(wanted)
    last = plan.stage[-1]
    every = last.evaluate_every
    assert checks == (sum(n % every == 0 for n in range(1, last.rounds)) if every else 0)


def test_steps_out_of_turn_are_defects() -> None:
    """A process that has lost its place must not go on."""
    plan = study([1], 1, 0)
    state = RunState(study="d", started_at=0)

    for wrong in (
        lambda: state.opened(plan, {}),
        lambda: state.committed(plan, {}, {}),
        lambda: state.checked(plan),
        lambda: state.scored(plan, {}),
        lambda: state.counted({}).opened(plan, {}),
        lambda: state.counted({}).opened(plan, {"t0": model("t0", 0)}).committed(plan, {}, {}),
        lambda: state.failed(ERROR).failed(ERROR),
    ):
        with pytest.raises(ValueError, match=r"study|wave|round"):
            wrong()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"format": "stillroom-run-1"},
        {**RunState(study="d", started_at=0).as_json(), "format": "stillroom-run-2"},
        {**RunState(study="d", started_at=0).as_json(), "phase": "lunch"},
        {**RunState(study="d", started_at=0).as_json(), "more": 1},
        {**RunState(study="d", started_at=0).as_json(), "models": {"a": {"sha256": "x"}}},
    ],
)
def test_what_is_no_state(value: Any) -> None:
    """STR-514 for anything that is not whole."""
    with pytest.raises(TrustError) as caught:
        RunState.from_json(value)
    assert caught.value.code == "STR-514"


def test_files_a_site_may_need() -> None:
    """Every model, and the smaller way to it."""
    state = RunState(study="d", started_at=0)
    state = replace(state, models={"a": model("a", 0), "b": model("b", 2)})

    assert files_of(state) == {"a-0", "b-2", "b-2d"}


def test_teachers_share_a_wave() -> None:
    """They commit together: one state names the new models of all of them."""
    plan = study([2, 1], 1, 0)
    state = RunState(study="d", started_at=0)
    while state.number < 2:
        state = step(plan, state, 1.0)

    assert len(waves(plan)[0]) == 2
    assert state.closed == {"t0": 1, "t1": 1}
    assert [stage.name for stage in active(plan, state)] == ["t0"]


JOINS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(["south", "east", "west"]), st.integers(0, 9)),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(STUDIES, JOINS, st.sets(st.integers(0, 59)))
def test_who_joins_stays_and_changes_nothing_else(
    plan: Study, joins: list[tuple[int, str, int]], killed: set[int]
) -> None:
    """At any time, in any order with what else is learned, and known once its step is committed."""
    alone = state = RunState(study="d" * 64, started_at=1.5).counted({"north": {"x": 1.0}})
    known = dict(state.inventories)
    for number in range(60):
        if state.final:
            break
        due = [(site, {"inventory.cases": float(n)}) for at, site, n in joins if at == number]
        before = state
        for site, counts in due:
            state = state.joined(site, counts)
            known.setdefault(site, counts)
            assert state.joined(site, {"inventory.cases": 99.0}) == state
            assert state.noted("n").joined(site, counts) == state.joined(site, counts).noted("n")
        if number in killed:
            # Killed before the commit: the question is put again, and answered again.
            state = through_disk(before)
            for site, counts in due:
                state = state.joined(site, counts)
        state, alone = step(plan, state, 1.0), step(plan, alone, 1.0)
        assert state.inventories == known
    assert replace(state, inventories={}, notes=()) == replace(alone, inventories={}, notes=())


def test_joining_forgets_why_it_was_left_out() -> None:
    """And nobody joins before the first question or after the end."""
    start = RunState(study="d", started_at=0)
    state = start.counted({}).stood(None, {"north": "no answer", "south": "no consent"})

    assert dict(state.joined("north", {"x": 1}).left) == {"south": "no consent"}
    for wrong in (start, state.failed(ERROR)):
        with pytest.raises(ValueError, match="joins"):
            wrong.joined("north", {})
