"""``adapt`` with ``how = "prompt"``: a visual prompt and a linear probe on a frozen network.

MoVL, Tian et al., arXiv 2405.07411, whose equation is in nothing we could read. Our reading:
the label's loss of the prompted image, plus a weight times what tells prompted and plain images apart,
here voxel by voxel. Only prompt and probe are exchanged, kilobytes a round; with a private prompt the
probe alone, and each site's prompt makes up for its own scanner.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from stillroom.client.recipes.context import RecipeContext
from stillroom.client.recipes.models import frozen, network
from stillroom.client.recipes.rounds import PRIVATE, Learner, arrived
from stillroom.client.training.contrast import soft_maps
from stillroom.client.training.device import Device
from stillroom.client.training.loop import Losses, supervised_losses
from stillroom.client.training.sampling import Batch
from stillroom.common.nn.prompt import PromptAdapter, Prompted, VisualPrompt
from stillroom.common.nn.weights import load
from stillroom.common.study import Study

DISCREPANCY = "discrepancy"
"""The term's name."""


def prompted(context: RecipeContext, device: Device) -> Prompted:
    """Backbone, adapter and prompt: a shared one as it arrived, a private one as it was kept."""
    module = network(context.study, context.stage, arrived(context), device)
    adapter = cast(PromptAdapter, module)
    prompt = adapter.prompt
    if prompt is None:
        prompt = cast(VisualPrompt, device.place(adapter.fresh()))
        kept = context.memory.load() or {}
        mine = {k.removeprefix(PRIVATE): v for k, v in kept.items() if k.startswith(PRIVATE)}
        if mine:
            load(prompt, mine)
    if adapter.mapping is not None:
        adapter.mapping.begin()
    return Prompted(frozen(context, context.stage.backbone or "", device), adapter, prompt)


def prompt_learner(context: RecipeContext, device: Device) -> Learner:
    """Prompt and probe together; in the first ``probe_rounds`` the probe alone."""
    whole = prompted(context, device)
    options = whole.adapter.options
    waiting = context.round <= options.probe_rounds
    whole.prompt.requires_grad_(requires_grad=not waiting)
    step = Step(whole, context.study, device, plain=waiting)
    weights = {**context.stage.label_weights, DISCREPANCY: options.discrepancy_weight}
    private = whole.prompt if whole.adapter.prompt is None else None
    return Learner(whole.adapter, step, private=private, weights=weights)


class Step:
    """One step's losses.

    Args:
        whole: What learns, on its frozen backbone.
        study: Labels.
        device: Where it is.
        plain: The prompt waits: there are only plain images.
    """

    def __init__(self, whole: Prompted, study: Study, device: Device, *, plain: bool) -> None:
        self._whole, self._study, self._device, self._plain = whole, study, device, plain

    def __call__(self, batch: Batch) -> Losses:
        """The label's loss of the prompted images, and the discrepancy."""
        if not batch.targets:
            return {}
        whole, adapter = self._whole, self._whole.adapter
        x = self._device.move(batch.x)
        with self._device.autocast():
            found = adapter.read(whole.backbone, x if self._plain else whole.prompt(x))
            logits = adapter.answer(found)
        if adapter.mapping is not None:
            target = batch.targets[adapter.label]
            rows = target.rows.to(found.device)
            adapter.mapping.count(found[rows], target.classes.to(found.device))
        losses = self._supervised(logits, batch)
        options = adapter.options
        if not self._plain and options.discrepancy != "none" and options.discrepancy_weight:
            losses[DISCREPANCY] = self._discrepancy(x, found, logits, batch)
        return losses

    def _discrepancy(self, x: Tensor, found: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Between the prompted images and the plain ones."""
        whole, adapter = self._whole, self._whole.adapter
        with self._device.autocast():
            plain = adapter.read(whole.backbone, x)
        if adapter.options.discrepancy == "feat":
            return mse_loss(found.float(), plain.float())
        with self._device.autocast():
            before = adapter.answer(plain)
        if adapter.options.discrepancy == "ce_plain":
            return torch.stack(list(self._supervised(before, batch).values())).sum()
        return soft_maps(logits, before, temperature=1.0)

    def _supervised(self, logits: Tensor, batch: Batch) -> Losses:
        label = self._whole.adapter.label
        return supervised_losses({label: logits}, batch, self._study, self._device)
