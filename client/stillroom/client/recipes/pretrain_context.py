"""``pretrain_context``: the student's encoder guesses what a teacher sees in hidden tiles.

Masked context modelling with distillation (Pisula & Bozek, arXiv 2403.05325). A window of a scan is
cut into tiles; the student's encoder sees some of them, a frozen teacher all; a small transformer
guesses the teacher's vectors of the hidden ones. Labels play no part. One round in which
``train.steps`` x ``train.batch_size`` is the number of a site's windows is the paper's single epoch.
"""

from torch import nn
from typing_extensions import override

from stillroom.client.intake.store import CaseInfo
from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import frozen, network
from stillroom.client.recipes.rounds import Learner, TrainingRecipe
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import Device
from stillroom.client.training.loop import Losses
from stillroom.client.training.sampling import Batch
from stillroom.client.training.tiles import Windows, WindowSource, for_tiles
from stillroom.common.nn.context import context_loss, targets_of
from stillroom.common.nn.tiles import pooled, tile_shape
from stillroom.common.recipes.context import ContextOptions

TERM = "context"


class PretrainContext(TrainingRecipe):
    """Learns from every training case, labelled or not; what it sends weighs by windows."""

    @override
    def labels(self, context: RecipeContext) -> tuple[str, ...]:
        """None."""
        return ()

    @override
    def cases(self, context: RecipeContext, candidates: list[CaseInfo]) -> list[str]:
        """All of them."""
        return [info.id for info in candidates]

    @override
    def batches(self, context: RecipeContext, ids: list[str]) -> WindowSource:
        """Windows of tiles, some of them to be hidden."""
        study, stage = context.study, context.stage
        options = stage.chosen(ContextOptions)
        across, down, *deep = options.tiles
        return WindowSource(
            ids,
            WorkingSet.of_stage(context.store, study, stage).case,
            volume=study.volume,
            counts=(deep[0] if deep else 1, down, across),
            tile=tile_shape(study, options.tile),
            hidden=options.hidden,
            batch_size=stage.train.batch_size,
            seed=context.round_seed,
        )

    @override
    def learner(self, context: RecipeContext, device: Device) -> Learner:
        """Encoder and predictor; the teacher stays as it is."""
        options = context.stage.chosen(ContextOptions)
        module = network(context.study, context.stage, context.weights or {}, device)
        teacher = frozen(context, context.stage.teachers[0], device)
        place = for_tiles(device, options.tile)

        def step(batch: Batch) -> Losses:
            return guess(module, teacher, batch, place, everywhere=options.loss_on == "all")

        return Learner(module, step, weights=context.stage.label_weights)


def guess(
    module: nn.Module, teacher: nn.Module, batch: Batch, device: Device, *, everywhere: bool
) -> Losses:
    """The loss of a batch of ``Windows``.

    Args:
        module: A ``ContextModel``.
        teacher: Frozen; sees the tiles that count, hidden or not.
        batch: Windows.
        device: Where both networks are.
        everywhere: Guesses of tiles that were seen count, too.
    """
    if not isinstance(batch, Windows):
        raise TypeError("windows are guessed, not patches")
    tiles, hidden = device.move(batch.x), batch.hidden.to(device.kind)
    counted = hidden.new_ones(hidden.shape) if everywhere else hidden
    with device.autocast():
        targets = targets_of(pooled(teacher, tiles[counted.flatten()]).detach())
        guesses = module(tiles, hidden)
    return {TERM: context_loss(guesses, targets, counted)}
