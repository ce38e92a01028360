"""One round: sites are invited, their updates summed as they come, and all of it committed at once.

Every stage of the open wave has this round, or has had its last; they are committed together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillroom.common.log_entries import Entry
from stillroom.common.messages import LABEL, ROUND, ModelRef
from stillroom.common.study import Stage
from stillroom.common.update import needed_models
from stillroom.server.asking import Call
from stillroom.server.census import inventory_calls, welcome
from stillroom.server.desk import Desk
from stillroom.server.leftovers import tell_closed, tidy, tidy_round
from stillroom.server.retention import keep_round
from stillroom.server.rounds.admission import Admission, admit
from stillroom.server.rounds.aggregate import Aggregate
from stillroom.server.rounds.outcome import Outcome, require_quorum, round_record
from stillroom.server.rounds.schedule import exchanges_weights
from stillroom.server.rounds.state import active, wave_of
from stillroom.server.study_notes import (
    NOT_THERE,
    round_committed,
    round_opened,
    stage_opened,
    update,
)
from stillroom.server.sums import Sums

Outcomes = Mapping[tuple[str, str], Outcome]
"""By stage and site."""


@dataclass(slots=True)
class Made:
    """What a round brings about, before it counts.

    Attributes:
        models: Stage -> its new model, where it exchanges weights.
        records: Stage -> the round's record.
    """

    models: dict[str, Aggregate] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_wave(desk: Desk) -> None:
    """Take the step to the first round of the next stages."""
    welcome(desk)
    models = {}
    for stage in wave_of(desk.study, desk.state):
        if exchanges_weights(stage):
            initial = desk.prepared.stages[stage.name].initial_sha256
            models[stage.name] = ModelRef(initial, desk.folder.model(initial).stat().st_size)
    after = desk.state.opened(desk.study, models)
    wave = wave_of(desk.study, after)
    desk.commit(after, *(stage_opened(after.study, s, after.models) for s in wave))
    for stage in wave:
        desk.event("stage.opened", stage=stage.name, recipe=stage.recipe)


def run_round(desk: Desk) -> None:
    """Ask, sum, commit, tell: the whole of the open round.

    Raises:
        ContractError: STR-305, STR-306 below quorum; STR-223, too few sites vouch for the log.
        Paused, Ended: The operator wants that, or the disk is not as it should be.
    """
    opened = desk.clock()
    stages = {stage.name: stage for stage in active(desk.study, desk.state)}
    earlier = {name: desk.chronicle.asked_before(desk.state, name) for name in stages}
    newcomers = desk.newcomers()
    calls = _invite(desk, stages.values(), newcomers)
    sums = Sums(desk.prepared, desk.state, desk.folder, desk.depot, calls)

    def settle(call: Call, outcome: Outcome) -> None:
        _report(desk, stages[call.task.stage], call, outcome)
        sums.put(call, outcome)

    outcomes = desk.ask(calls, settle=settle, along=inventory_calls(desk, newcomers))
    for (name, site), outcome in sorted(outcomes.items()):
        desk.chronicle.gather(update(desk.state, name, site, outcome))
    # 1. The new models' files, durable under their digests. Killed here: nobody knows them;
    #    they are removed, or made again, at the next start.
    made = _make(desk, stages, outcomes, sums, opened)
    _await_witnesses(desk, {site for _, site in outcomes})
    # 2. The records. Killed here: written again when the round is.
    commits = _write_records(desk, made, earlier)
    # 3. The state: all stages of this round, or none; with it, what is to be said in the log.
    #    Killed here: the next start says it.
    # 4. The log. Killed here: the next start finds it there.
    _commit(desk, made, outcomes, commits)
    # 5. The world. Killed here: the next start does it.
    tidy(desk)
    for name, record in made.records.items():
        tell_closed(desk, stages[name], record)
        tidy_round(desk, record)


def _invite(desk: Desk, stages: Iterable[Stage], newcomers: Iterable[str]) -> list[Call]:
    """Whom to ask in every stage of this round; in the log before anybody is."""
    joining = dict.fromkeys(newcomers, NOT_THERE)
    standings = desk.standings(desk.state.inventories)
    calls, opened = list[Call](), list[tuple[Stage, Admission]]()
    for stage in stages:
        admission = admit(desk.study, stage, desk.state.inventories, standings)
        kind = ROUND if exchanges_weights(stage) else LABEL
        task = desk.task(kind, stage, desk.state.number, needed_models(kind, stage))
        calls += [Call(kind, site, task) for site in admission.invited]
        opened.append((stage, admission))
    desk.chronicle.note(
        *(
            round_opened(desk.state, stage, one.invited, {**joining, **one.left_out})
            for stage, one in opened
        )
    )
    for stage, admission in opened:
        desk.event(
            "round.opened",
            stage=stage.name,
            round=desk.state.number,
            of=stage.rounds,
            invited=list(admission.invited),
            left_out={**joining, **admission.left_out},
        )
    return calls


def _report(desk: Desk, stage: Stage, call: Call, outcome: Outcome) -> None:
    """Tell whoever watches what became of one site; what is amiss is noted."""
    number = call.task.round
    desk.event(
        "site.answered",
        stage=stage.name,
        round=number,
        site=call.site,
        status=outcome.status,
        reason=outcome.reason,
        loss=outcome.metrics.get("train.loss"),
        seconds=round(outcome.seconds, 2),
    )
    if outcome.status != "admitted":
        desk.note(f"{stage.name}, round {number}: {call.site} {outcome.status}, {outcome.reason}.")


def _make(
    desk: Desk, stages: Mapping[str, Stage], outcomes: Outcomes, sums: Sums, opened: float
) -> Made:
    """The new models and the records of a round that has its quorum."""
    made = Made()
    for name, stage in stages.items():
        mine = {site: o for (s, site), o in sorted(outcomes.items()) if s == name}
        require_quorum(desk.study, name, mine)
        one = sums.finish(name)
        if one is not None:
            made.models[name] = one
        made.records[name] = _record(desk, stage, mine, one, desk.clock() - opened)
        if exchanges_weights(stage):
            keep_round(desk.prepared, desk.folder, desk.depot, desk.state, stage, mine)
    return made


def _record(
    desk: Desk, stage: Stage, outcomes: dict[str, Outcome], made: Aggregate | None, seconds: float
) -> dict[str, Any]:
    spent = desk.prepared.stages[stage.name].epsilon if exchanges_weights(stage) else None
    record = round_record(
        desk.state.number,
        outcomes,
        seconds=seconds,
        model=None if made is None else made.sha256,
        epsilon=None if spent is None else spent[desk.state.number - 1],
    )
    for site, factor in ({} if made is None else made.clipped).items():
        record["sites"][site]["shortened_to"] = factor
    return {"stage": stage.name, **record}


def _await_witnesses(desk: Desk, sites: set[str]) -> None:
    quorum = desk.study.study.quorum
    desk.chronicle.wait_for(quorum.witnesses, sites, limit_s=quorum.deadline_s, heed=desk.heed)


def _write_records(desk: Desk, made: Made, earlier: Mapping[str, set[str]]) -> list[Entry]:
    """Write every stage's record; what the log will say of them."""
    commits: list[Entry] = []
    desk.chronicle.gather_vouched()
    for name, record in made.records.items():
        desk.folder.write_round(name, {**record, **_witnesses(desk)})
        sha256 = desk.folder.round_digest(name, desk.state.number)
        commits.append(round_committed(desk.state, record, sha256, earlier[name]))
    return commits


def _witnesses(desk: Desk) -> dict[str, Any]:
    """Who has vouched for the log in which the round before stands, for a round's record."""
    found = desk.chronicle.vouched()
    if found is None:
        return {}
    return {"witnessed": {"size": found.checkpoint.size, "sites": list(found.sites)}}


def _commit(desk: Desk, made: Made, outcomes: Outcomes, commits: Iterable[Entry]) -> None:
    models = {n: ModelRef(one.sha256, one.nbytes, one.delta) for n, one in made.models.items()}
    late = tuple({site for (_, site), o in outcomes.items() if o.status == "late"})
    after = desk.state.committed(desk.study, models, _slowest(outcomes), late)
    desk.commit(after, *commits)


def _slowest(outcomes: Outcomes) -> dict[str, float]:
    """Stage -> seconds of its slowest usable answer."""
    found: dict[str, float] = {}
    for (stage, _), outcome in outcomes.items():
        if outcome.status == "admitted":
            found[stage] = max(outcome.seconds, found.get(stage, 0.0))
    return found
