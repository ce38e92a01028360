"""What a study has to say in the log, made of what its process knows. Pure; times come later."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stillroom.common.canonical import digest
from stillroom.common.consent import WORDS
from stillroom.common.log_entries import (
    UNSTAMPED,
    RoundCommitted,
    RoundOpened,
    Scored,
    StageOpened,
    StudyFinished,
    Update,
    Witnessed,
)
from stillroom.common.messages import ModelRef
from stillroom.common.study import Stage
from stillroom.server.cosigned import Vouched
from stillroom.server.rounds.outcome import Answer, Outcome
from stillroom.server.rounds.state import RunState

LONGEST = 200
"""Characters of a reason."""
_CODE = re.compile(r"STR-[0-9]{3}")
NOT_THERE = "has given no usable inventory yet"
NO_MORE = "was asked before the study was interrupted, and not again"


def stage_opened(study: str, stage: Stage, models: Mapping[str, ModelRef]) -> StageOpened:
    """A stage begins; ``models`` are those it starts from and those of its teachers."""
    own = models.get(stage.name)
    return StageOpened(
        time=UNSTAMPED,
        study=study,
        stage=stage.name,
        recipe=stage.recipe,
        rounds=stage.rounds,
        initial_sha256=None if own is None else own.sha256,
        leaves=stage.declared.produces,
        teachers={name: models[name].sha256 for name in stage.inputs},
    )


def round_opened(
    state: RunState, stage: Stage, invited: Iterable[str], left_out: Mapping[str, str]
) -> RoundOpened:
    """Sites are about to be asked; of everybody else in the consortium it says why not."""
    asked, words = tuple(sorted(invited)), {str(word): text for word, text in WORDS.items()}
    reasons = {
        site: NOT_THERE if word == "given" else words.get(word, word)
        for site, word in (state.standings or {}).items()
        if site not in asked
    } | dict(left_out)
    model = state.models.get(stage.name)
    return RoundOpened(
        time=UNSTAMPED,
        study=state.study,
        stage=stage.name,
        round=state.number,
        base_sha256=None if model is None else model.sha256,
        invited=asked,
        left_out={site: why[:LONGEST] for site, why in sorted(reasons.items())},
    )


def update(state: RunState, stage: str, site: str, outcome: Outcome) -> Update:
    """What became of one answer."""
    code = _CODE.match(outcome.reason)
    file = outcome.update
    numbers = {name: value for name, value in outcome.metrics.items() if name.startswith("pseudo.")}
    return Update(
        time=UNSTAMPED,
        study=state.study,
        stage=stage,
        round=state.number,
        site=site,
        status=outcome.status,
        code=None if code is None else code[0],
        sha256=None if file is None else file.sha256,
        bytes=0 if file is None else file.nbytes,
        encoding="" if file is None else file.encoding,
        base_sha256=None if file is None else file.base,
        samples=dict(outcome.samples),
        counts={name: int(value) for name, value in sorted(numbers.items())},
        metrics_sha256=digest(dict(outcome.metrics)) if outcome.metrics else None,
    )


def late(study: str, stage: str, number: int, site: str, answer: Answer) -> Update:
    """An answer that came when its round had closed."""
    file = None if answer.reply is None else answer.reply.update
    return Update(
        time=UNSTAMPED,
        study=study,
        stage=stage,
        round=number,
        site=site,
        status="late",
        sha256=None if file is None else file.sha256,
        bytes=0 if file is None else file.nbytes,
        encoding="" if file is None else file.encoding,
        base_sha256=None if file is None else file.base,
    )


def round_committed(
    state: RunState, record: Mapping[str, Any], record_sha256: str, earlier: Iterable[str]
) -> RoundCommitted:
    """A round counts.

    Args:
        state: Before the round is committed.
        record: Of the round.
        record_sha256: Of its file.
        earlier: Who was asked for it before the study was interrupted.
    """
    sites: Mapping[str, Any] = record["sites"]
    missing = {
        name: site.get("reason") or site["status"]
        for name, site in sites.items()
        if site["status"] != "admitted"
    }
    gone = {site: state.left.get(site, NO_MORE) for site in earlier if site not in sites}
    return RoundCommitted(
        time=UNSTAMPED,
        study=state.study,
        stage=record["stage"],
        round=record["round"],
        order=tuple(record["order"]),
        totals=dict(record["samples"]),
        model_sha256=record.get("model_sha256"),
        record_sha256=record_sha256,
        expected=tuple(sorted(sites.keys() | gone.keys())),
        missing={name: why[:LONGEST] for name, why in sorted((missing | gone).items())},
        epsilon=record.get("epsilon"),
    )


def scored(
    state: RunState,
    stage: str,
    number: int,
    scores: Mapping[str, Mapping[str, float]],
    missing: Mapping[str, str],
) -> Scored:
    """A model was scored by those who could."""
    return Scored(
        time=UNSTAMPED,
        study=state.study,
        stage=stage,
        round=number,
        model_sha256=state.models[stage].sha256,
        sites=tuple(sorted(scores)),
        missing={site: why[:LONGEST] for site, why in sorted(missing.items())},
        scores_sha256=digest({site: dict(numbers) for site, numbers in scores.items()}),
    )


def witnessed(vouched: Vouched) -> Witnessed:
    """Sites have vouched for what came before."""
    return Witnessed(time=UNSTAMPED, checkpoint=vouched.note.to_bytes().decode("utf-8"))


def finished(result: Mapping[str, Any], run: str, result_sha256: str) -> StudyFinished:
    """A run ends as its result says."""
    error = result["error"]
    code = None if error is None or not _CODE.fullmatch(error["code"]) else error["code"]
    return StudyFinished(
        time=UNSTAMPED,
        study=result["study_digest"],
        run=run,
        status=result["status"],
        code=code,
        complete_participation=result["complete_participation"],
        models=dict(result["models"]),
        result_sha256=result_sha256,
    )
