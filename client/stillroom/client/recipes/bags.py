"""``bags``: one class for each scan, learned from its tiles (multiple-instance learning).

The extractor is the student's encoder, fresh or from ``start``, which then learns and is exchanged,
or any earlier network named as ``backbone``, which stays as it is. Attention over the tiles of a
scan makes one vector, and one layer classifies it. Cross-entropy; a scan's whole loss is one term,
whatever the number of its tiles.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.cohort import no_case
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.client.recipes.evaluation import chosen_cases
from stillroom.client.recipes.models import frozen
from stillroom.client.recipes.rounds import Learner, TrainingRecipe
from stillroom.client.training.cases import Case, WorkingSet
from stillroom.client.training.classification import score_classes
from stillroom.client.training.device import Device, seeded
from stillroom.client.training.loop import Losses
from stillroom.client.training.sampling import Batch
from stillroom.client.training.tiles import (
    AT_ONCE,
    Bags,
    BagSource,
    Look,
    Vectors,
    covering,
    for_tiles,
    pixels,
)
from stillroom.common.errors import ResourceError
from stillroom.common.nn.tiles import pooled, tile_shape
from stillroom.common.recipes.bags import BagOptions

Features = Callable[[Tensor], Tensor]
"""What a ``Look`` gives -> vectors ``(T, C)`` on the device."""


class BagsOfTiles(TrainingRecipe):
    """Learns from the cases whose class somebody wrote down."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """The stage's label."""
        return (context.stage.label or "",)

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """Cases with a class."""
        return [info.id for info in candidates if context.stage.label in info.bags]

    @override
    def batches(self, context: RecipeContext, ids: list[str]) -> BagSource:
        """Some tiles of a few scans."""
        study, stage = context.study, context.stage
        options = stage.chosen(BagOptions)
        return BagSource(
            {case_id: class_of(context, context.store.info(case_id)) for case_id in ids},
            stage.label or "",
            WorkingSet.of_stage(context.store, study, stage).case,
            look=look_of(context, context.choose_device()),
            tile=tile_shape(study, options.tile),
            most=options.most_tiles,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """Pool and head, and the extractor where it learns."""
        module = self.predictor(context, device)
        features = features_of(context, module, device)
        place = for_tiles(device, context.stage.chosen(BagOptions).tile)
        label = context.stage.label or ""

        def step(batch: Batch) -> Losses:
            return classify(module, features, batch, place, label=label)

        return Learner(module, step, weights=context.stage.label_weights)

    @override
    def evaluate(self, context: RecipeContext, keep: Path | None = None) -> RoundResult:
        """Scores of ``context.weights`` on this site's scans whose class is known.

        Args:
            context: With the model.
            keep: A folder on the site for ``<id>.json`` (label -> class -> probability). They
                never leave.

        Raises:
            DataError: STR-401, no case to score on.
            ResourceError: STR-502, stopped.
        """
        study, stage = context.study, context.stage
        label = stage.label or ""
        infos = [info for info in chosen_cases(context) if label in info.bags]
        if not infos:
            raise no_case(f"no labelled case to score stage {stage.name} on")
        device, rows = context.choose_device(), []
        module = self.predictor(context, device).eval()
        features, look = features_of(context, module, device), look_of(context, device)
        working_set = WorkingSet.of_stage(context.store, study, stage)
        side = stage.chosen(BagOptions).tile
        tile, place = tile_shape(study, side), for_tiles(device, side)
        with seeded(device, context.round_seed):
            for index, info in enumerate(infos):
                if context.should_stop():
                    raise ResourceError(
                        "This site stopped the round.", fix="Start it again.", code="STR-502"
                    )
                case = working_set.case(info.id)
                every = range(len(covering(case.grid.shape, tile)))
                rows.append(probabilities(module, features, look, case, every, device=place))
                if keep is not None:
                    _keep(keep, info.id, label, study.label[label].classes, rows[-1])
                context.progress((index + 1) / len(infos))
        truth = np.asarray([class_of(context, info) for info in infos])
        scores = score_classes(label, study.label[label].classes, np.stack(rows), truth)
        return RoundResult(None, {}, {"eval.cases": len(infos), **scores})


def class_of(context: RecipeContext, info: CaseInfo) -> int:
    """Number of a case's class."""
    label = context.stage.label or ""
    return context.study.label[label].classes.index(info.bags[label])


def features_of(context: RecipeContext, module: nn.Module, device: Device) -> Features:
    """Vectors of what ``look_of`` shows: by the extractor that learns, or already made."""
    if context.stage.backbone is None:
        return lambda tiles: pooled(module, device.move(tiles))
    return lambda vectors: vectors.to(device.kind)


def look_of(context: RecipeContext, device: Device) -> Look:
    """Tiles for an extractor that learns; vectors, made once a round, by a backbone that does not."""
    study, side = context.study, context.stage.chosen(BagOptions).tile
    tile, place = tile_shape(study, side), for_tiles(device, side)
    if context.stage.backbone is None:
        return pixels(tile, study.volume)
    backbone = frozen(context, context.stage.backbone, device)

    def extract(tiles: Tensor) -> Tensor:
        with torch.no_grad(), place.autocast():
            return pooled(backbone, device.move(tiles))

    return Vectors(tile, study.volume, extract)


def classify(
    module: nn.Module, features: Features, batch: Batch, device: Device, *, label: str
) -> Losses:
    """Cross-entropy of a batch of ``Bags``; nothing when no bag has the label.

    Args:
        module: A ``BagClassifier``.
        features: Vectors of what the bags hold.
        batch: Bags.
        device: Where both are.
        label: The label type.
    """
    if not isinstance(batch, Bags):
        raise TypeError("bags are classified, not patches")
    if (target := batch.targets.get(label)) is None:
        return {}
    with device.autocast():
        logits = module(features(batch.x), batch.sizes)
    chosen = logits.float()[target.rows.to(device.kind)]
    return {label: cross_entropy(chosen, target.classes.to(device.kind))}


def probabilities(
    module: nn.Module,
    features: Features,
    look: Look,
    case: Case,
    every: Sequence[int],
    *,
    device: Device,
) -> np.ndarray:
    """``(classes,)`` of a scan, from the tiles ``every``."""
    with torch.no_grad(), device.autocast():
        parts = [
            features(look(case, every[first : first + AT_ONCE]))
            for first in range(0, len(every), AT_ONCE)
        ]
        logits = module(torch.cat(parts), [len(every)])
    return np.asarray(logits[0].float().softmax(0).cpu().numpy())


def _keep(
    folder: Path, case_id: str, label: str, classes: tuple[str, ...], row: np.ndarray
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    said = {label: dict(zip(classes, map(float, row), strict=True))}
    (folder / f"{case_id}.json").write_text(json.dumps(said, indent=1), "utf-8")
