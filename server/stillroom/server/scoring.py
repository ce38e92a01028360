"""How good a model is: scored on its way by sites that train nothing, and at its end by all."""

from collections.abc import Mapping, Sequence

from stillroom.common.messages import STAGE
from stillroom.common.study import Stage
from stillroom.common.update import needed_models
from stillroom.server.asking import Call
from stillroom.server.desk import Desk
from stillroom.server.rounds.admission import admit_evaluation
from stillroom.server.rounds.schedule import exchanges_weights
from stillroom.server.rounds.state import to_check, wave_of
from stillroom.server.study_notes import scored

Scores = dict[str, dict[str, Mapping[str, float]]]
"""Stage -> site -> its numbers."""


def check(desk: Desk) -> None:
    """Scores of models that are trained further, by sites that train nothing."""
    stages = to_check(desk.study, desk.state)
    found = _evaluate(desk, stages, desk.state.number, held_out_only=True)
    for stage in stages:
        desk.folder.write_scores(stage.name, desk.state.number, found[stage.name])
    desk.commit(desk.state.checked(desk.study))


def score(desk: Desk) -> None:
    """Scores of the wave's last models, by everybody who can."""
    wave = wave_of(desk.study, desk.state)
    trained = [stage for stage in wave if exchanges_weights(stage)]
    found = _evaluate(desk, trained, None, held_out_only=False) if trained else {}
    desk.commit(desk.state.scored(desk.study, found))
    for stage in wave:
        desk.event("stage.closed", stage=stage.name)


def _evaluate(
    desk: Desk, stages: Sequence[Stage], number: int | None, *, held_out_only: bool
) -> Scores:
    """Scores by stage and site; all sites work side by side.

    A site that cannot score a model is a note, no failure.

    Args:
        desk: The study's run.
        stages: Whose present models are scored.
        number: Round to name; each stage's last when None.
        held_out_only: Leave training sites to their training.
    """
    calls = _calls(desk, stages, number, held_out_only=held_out_only)
    scores: Scores = {stage.name: {} for stage in stages}
    missing: dict[str, dict[str, str]] = {stage.name: {} for stage in stages}
    outcomes = desk.ask(calls, limit_s=desk.study.study.quorum.deadline_s)
    for (name, site), outcome in sorted(outcomes.items()):
        if outcome.status == "admitted":
            scores[name][site] = outcome.metrics
        else:
            missing[name][site] = outcome.reason or outcome.status
            desk.note(f"{name}: {site} could not be scored, {outcome.reason}.")
    for stage in stages:
        name, turn = stage.name, number or stage.rounds
        desk.chronicle.gather(scored(desk.state, name, turn, scores[name], missing[name]))
        desk.event("stage.scored", stage=name, round=turn, sites=sorted(scores[name]))
    return scores


def _calls(
    desk: Desk, stages: Sequence[Stage], number: int | None, *, held_out_only: bool
) -> list[Call]:
    """Whom to ask for scores of what."""
    calls: list[Call] = []
    standings = desk.standings(desk.state.inventories)
    for stage in stages:
        sites = admit_evaluation(
            desk.study,
            stage,
            desk.state.inventories,
            held_out_only=held_out_only,
            consents=standings,
        )
        if not sites:
            continue  # nobody can, or its model predicts nothing that could be scored
        task = desk.task(STAGE, stage, number or stage.rounds, needed_models(STAGE, stage))
        calls += [Call(STAGE, site, task) for site in sites]
    return calls
