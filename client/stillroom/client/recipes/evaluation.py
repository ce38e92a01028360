"""Scores of a stage's network on a site's truly labelled cases, by the site itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.cohort import all_cases, no_case, validation_ids
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.recipes.models import network
from stillroom.client.training.cases import Case, WorkingSet, grid_of, transfer
from stillroom.client.training.device import seeded
from stillroom.client.training.inference import predict
from stillroom.client.training.metrics import ClassResult, score_mask, score_points, summarise
from stillroom.client.training.targets import decode_mask, decode_points
from stillroom.common.errors import ResourceError

Scores = dict[str, dict[str, ClassResult]]
"""Label type -> class -> result, of one case."""


def evaluate(
    context: RecipeContext,
    cases: Sequence[str] | None = None,
    *,
    module: nn.Module | None = None,
    keep_predictions: Path | None = None,
) -> RoundResult:
    """Score ``context.weights`` against true labels; no weights in the result.

    Args:
        context: Its stage's model is scored on the labels that it predicts.
        cases: Identifiers; when left out, the validation cases of a training site and every
            labelled case of a held-out one.
        module: What predicts; the stage's own network when left out.
        keep_predictions: A folder on the site for ``<id>.<label>.npy`` (classes, uint8, on the
            stored grid) and ``<id>.json`` (label -> class -> result). They never leave.

    Raises:
        DataError: STR-401, no case to score on.
        ResourceError: STR-502, stopped.
    """
    study, stage = context.study, context.stage
    labels = study.predicted_labels(stage)
    infos = [info for info in chosen_cases(context, cases) if info.labels & set(labels)]
    if not infos:
        raise no_case(f"no labelled case to score stage {stage.name} on")
    if context.weights is None:
        raise ValueError(f"stage {stage.name} is scored, and no weights were given")
    device = context.choose_device()
    if module is None:
        module = network(study, stage, context.weights, device)
    working_set = WorkingSet.of_stage(context.store, study, stage)
    scores: list[Scores] = []
    with seeded(device, context.round_seed):
        for index, info in enumerate(infos):
            if context.should_stop():
                raise ResourceError(
                    "This site stopped the round.", fix="Start it again.", code="STR-502"
                )
            case = working_set.case(info.id)
            probabilities = predict(module, case, volume=study.volume, device=device)
            scores.append(_score(context, info, case, probabilities))
            if keep_predictions is not None:
                _keep(keep_predictions, info, case, probabilities, scores[-1])
            context.progress((index + 1) / len(infos))
    metrics: dict[str, float] = {"eval.cases": len(infos)}
    for label in labels:
        metrics |= summarise(label, [score[label] for score in scores if label in score])
    return RoundResult(None, {}, metrics)


def chosen_cases(context: RecipeContext, cases: Sequence[str] | None = None) -> list[CaseInfo]:
    """The cases that ``evaluate`` scores: as it says of ``cases``."""
    infos = all_cases(context.store)
    if cases is not None:
        return [info for info in infos if info.id in set(cases)]
    if context.role == "held_out":
        return infos
    kept = validation_ids(infos, context.study)
    return [info for info in infos if info.id in kept]


def _score(
    context: RecipeContext, info: CaseInfo, case: Case, probabilities: dict[str, np.ndarray]
) -> Scores:
    """Results of every label type that is both predicted and true in this case.

    Masks are compared on the stored grid and points in mm: what a crop cut off counts as missed.
    """
    scores: Scores = {}
    for label in sorted(probabilities.keys() & info.labels):
        definition = context.study.voxel_labels()[label]
        if definition.kind == "mask":
            scores[label] = score_mask(
                transfer(decode_mask(probabilities[label]), case.grid, grid_of(info)),
                context.store.mask(info.id, label),
                definition.classes,
                min_dice=definition.min_dice,
            )
        else:
            scores[label] = score_points(
                decode_points(probabilities[label], definition.names, grid=case.grid),
                info.points[label],
                tolerance_mm=definition.tolerance_mm,
            )
    return scores


def _keep(
    folder: Path,
    info: CaseInfo,
    case: Case,
    probabilities: dict[str, np.ndarray],
    scores: Scores,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for label, values in probabilities.items():
        classes = transfer(decode_mask(values), case.grid, grid_of(info))
        np.save(folder / f"{case.id}.{label}.npy", classes)
    results = {
        label: {name: asdict(result) for name, result in named.items()}
        for label, named in scores.items()
    }
    (folder / f"{case.id}.json").write_text(json.dumps(results, indent=1), "utf-8")
