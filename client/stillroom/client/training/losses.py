"""Losses. Pure functions of tensors: no state, no logging, no device choice.

The rule of partial labels (FedKD, arXiv 2407.07557, training code): the loss is a sum over the
label types present in a case. An absent one contributes no term, so no gradient reaches its head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

DEEP_WEIGHTS = (1.0, 0.5, 0.25)
"""Deep supervision, full resolution first (same source)."""


@dataclass(frozen=True, slots=True)
class Target:
    """The labels of one type in a batch.

    Attributes:
        rows: ``(b,)`` int64, the samples of the batch that have this label type; b >= 1.
        classes: ``(b, D, H, W)`` int64, 0 = background.
    """

    rows: Tensor
    classes: Tensor


def soft_dice(logits: Tensor, classes: Tensor) -> Tensor:
    """One minus the soft Dice, mean over foreground classes.

    Sums run over the whole batch, background is left out and both counts are smoothed by 1, so
    a class that neither occurs nor is predicted costs nothing (FedKD's training code).

    Args:
        logits: ``(B, C, D, H, W)``, any float dtype; computed in float32.
        classes: ``(B, D, H, W)`` int64 in [0, C).

    Returns:
        Scalar in [0, 1).
    """
    probability = logits.float().softmax(1)[:, 1:]
    truth = one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability.dtype)
    over = (0, 2, 3, 4)
    overlap = (probability * truth).sum(over)
    total = probability.sum(over) + truth.sum(over)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def dice_and_cross_entropy(logits: Tensor, classes: Tensor, *, background: float) -> Tensor:
    """Soft Dice plus cross-entropy, each with weight 1.

    Args:
        logits: ``(B, C, D, H, W)``.
        classes: ``(B, D, H, W)`` int64 in [0, C).
        background: Weight of background voxels in the cross-entropy, > 0; foreground has 1.
            Our choice: with plain cross-entropy, small structures are background for hundreds
            of steps.

    Returns:
        Scalar >= 0.
    """
    weight = torch.ones(logits.shape[1], device=logits.device)
    weight[0] = background
    return soft_dice(logits, classes) + cross_entropy(logits.float(), classes, weight=weight)


def label_losses(
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Target],
    *,
    background: Mapping[str, float],
) -> dict[str, Tensor]:
    """The loss of each label type present in the batch; others are simply not in the result.

    Args:
        outputs: Per label type ``(B, C, D, H, W)``, or ``(B, S, C, D, H, W)`` with S scales of
            deep supervision.
        targets: Label types present; each also in ``outputs``.
        background: Per label type, see ``dice_and_cross_entropy``.
    """
    losses: dict[str, Tensor] = {}
    for label, target in targets.items():
        chosen = outputs[label][target.rows]
        scales = chosen.unbind(1) if chosen.ndim == 6 else (chosen,)
        losses[label] = sum(
            (
                weight
                * dice_and_cross_entropy(logits, target.classes, background=background[label])
                for weight, logits in zip(DEEP_WEIGHTS, scales, strict=False)
            ),
            start=torch.zeros((), device=chosen.device),
        )
    return losses


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the losses present, each times its weight (1 when left out); at least one present."""
    return torch.stack([weights.get(label, 1.0) * loss for label, loss in losses.items()]).sum()
