"""How a study ended, as one document for people, reports and releases. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.common.study import Study
from stillroom.server.rounds.scores import tabulate
from stillroom.server.rounds.state import RunState


def result(
    study: Study,
    state: RunState,
    rounds: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    seconds: float,
) -> dict[str, Any]:
    """The content of ``result.json``.

    Args:
        study: The study.
        state: Its last state.
        rounds: Stage -> records of its committed rounds.
        seconds: From the first start to the end, pauses included.
    """
    held_out = set(study.study.held_out)
    tables = {
        name: tabulate(study, scores, held_out & scores.keys() or scores.keys())
        for name, scores in state.scores.items()
    }
    student = next(
        (s.name for s in reversed(study.stage) if s.declared.produces == "student"), None
    )
    # A study that leaves no student shows what its last model can do.
    shown = student or next((s.name for s in reversed(study.stage) if s.name in tables), "")
    models = {name: model.sha256 for name, model in state.models.items()}
    return {
        "status": "failed" if state.error else "completed",
        "complete_participation": state.error is None and not state.notes,
        "error": None if state.error is None else dict(state.error),
        "study_name": study.study.name,
        "study_digest": state.study,
        "seed": study.study.seed,
        "started_at": state.started_at,
        "seconds": round(seconds, 3),
        "student": {"stage": student, "sha256": models.get(student or "")},
        "models": models,
        "sites": [
            {"name": site, "role": "held_out" if site in held_out else "train"}
            for site in sorted(state.inventories)
        ],
        "inventories": {site: dict(counts) for site, counts in state.inventories.items()},
        "stages": [
            {"name": s.name, "recipe": s.recipe, "rounds": list(rounds.get(s.name, ()))}
            for s in study.stage
        ],
        "metrics": tables.get(shown, {}),
        "teachers": {name: table for name, table in tables.items() if name != shown},
        "consents": None if state.standings is None else dict(state.standings),
        "notes": list(state.notes),
    }
