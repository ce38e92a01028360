"""``pseudolabel``: the teachers label what nobody labelled, on site (FedKD, step B).

A case whose label of that type is true is left alone. The only filter of the published code is
completeness: a pseudo-label is used when every class or point was found. Only counts leave.
"""

import time

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo, Provenance
from stillroom.client.recipes.cohort import all_cases, no_case, training_cases
from stillroom.client.recipes.context import Recipe, RecipeContext, RoundResult
from stillroom.client.recipes.models import network
from stillroom.client.training.cases import Case, WorkingSet, grid_of, transfer
from stillroom.client.training.device import Device, seeded
from stillroom.client.training.inference import predict
from stillroom.client.training.targets import (
    decode_mask,
    decode_points,
    missing_classes,
    rasterise,
)
from stillroom.common.errors import ResourceError
from stillroom.common.study import VoxelLabel

SECONDS_PER_DAY = 86400


class PseudoLabel(Recipe):
    """Runs each teacher over the cases without its label type."""

    @override
    def run(self, context: RecipeContext) -> RoundResult:
        """Label the site's training cases."""
        infos = _candidates(context)
        if context.role == "held_out" or not infos:
            raise no_case(f"no training case for stage {context.stage.name}")
        device = context.choose_device()
        metrics: dict[str, float] = {}
        with seeded(device, context.round_seed):
            for number, teacher in enumerate(context.stage.teachers):
                done = number / len(context.stage.teachers)
                metrics |= self._apply(context, teacher, infos, device, done)
        context.progress(1.0)
        return RoundResult(None, {}, metrics)

    def _apply(
        self,
        context: RecipeContext,
        teacher: str,
        infos: list[CaseInfo],
        device: Device,
        done: float,
    ) -> dict[str, float]:
        """One teacher over all cases; its counts."""
        study, stage = context.study, context.study.stage_named(teacher)
        label = stage.label or ""
        definition = study.voxel_labels()[label]
        weights, sha256 = context.teachers[teacher]
        module = network(study, stage, weights, device)
        counts = {"written": 0, "incomplete": 0, "kept": 0}
        cases = WorkingSet.of_stage(context.store, study, stage)
        for index, info in enumerate(infos):
            if context.should_stop():
                raise ResourceError(
                    "This site stopped the round.", fix="Start it again.", code="STR-502"
                )
            context.progress(done + index / len(infos) / len(context.stage.teachers))
            if label in info.labels:
                counts["kept"] += 1
                continue
            case = cases.case(info.id)
            probabilities = predict(module, case, volume=study.volume, device=device)[label]
            classes = hard_label(probabilities, definition, case, info)
            missing = missing_classes(classes, len(definition.classes))
            counts["incomplete" if missing else "written"] += 1
            provenance = _provenance(context, sha256, missing)
            context.store.write_pseudo(info.id, label, classes, provenance)
        return {f"pseudo.{label}.{verdict}": count for verdict, count in counts.items()}


def hard_label(
    probabilities: NDArray[np.floating], definition: VoxelLabel, case: Case, info: CaseInfo
) -> NDArray[np.uint8]:
    """A teacher's output as classes on the stored grid: its argmax, or clean balls around its points."""
    stored = grid_of(info)
    if definition.kind == "mask":
        return transfer(decode_mask(probabilities), case.grid, stored)
    points = decode_points(probabilities, definition.names, grid=case.grid)
    return rasterise(points, definition.names, radius_mm=definition.radius_mm, grid=stored)


def _candidates(context: RecipeContext) -> list[CaseInfo]:
    """Training cases; all of them when the label map is also an input, which validation needs too."""
    if context.study.volume.condition_on is not None:
        return all_cases(context.store)
    return training_cases(context.store, context.study)


def _provenance(context: RecipeContext, sha256: str, missing: int) -> Provenance:
    now = time.time()
    return Provenance(
        teacher_sha256=sha256,
        stage=context.stage.name,
        complete=missing == 0,
        missing=missing,
        written_at=now,
        expires_at=now + context.keep_pseudo_labels_days * SECONDS_PER_DAY,
    )
