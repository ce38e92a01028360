"""Laws of the losses."""

import pytest
import torch

from stillroom.client.training.losses import (
    Target,
    dice_and_cross_entropy,
    label_losses,
    soft_dice,
    weighted_sum,
)

BACKGROUND = {"a": 0.2, "b": 0.05}


def example(seed: int = 0, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 4, 5, 6, generator=generator)
    return logits, torch.randint(classes, (2, 4, 5, 6), generator=generator)


def test_a_perfect_prediction_costs_almost_nothing() -> None:
    """Sure and right is the minimum of both terms."""
    _, classes = example()
    logits = 50.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)

    assert float(dice_and_cross_entropy(logits, classes, background=0.2)) < 1e-4


def test_a_class_that_is_nowhere_costs_nothing() -> None:
    """Smoothing by 1 makes the Dice of nothing against nothing one."""
    classes = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 0] = 50

    assert float(soft_dice(logits, classes)) == pytest.approx(0, abs=1e-6)


def test_permuting_foreground_classes_changes_nothing() -> None:
    """No class is special but the background."""
    logits, classes = example()
    order = torch.tensor([0, 2, 1])

    there = dice_and_cross_entropy(logits, classes, background=0.2)
    swapped = dice_and_cross_entropy(logits[:, order], order[classes], background=0.2)

    assert torch.allclose(there, swapped)


def test_dice_runs_over_the_batch() -> None:
    """Two samples cost what one twice as deep costs: small structures are pooled."""
    logits, classes = example()

    joined = torch.cat([logits[0], logits[1]], 1)[None], torch.cat([classes[0], classes[1]])[None]

    assert torch.allclose(soft_dice(logits, classes), soft_dice(*joined))


def test_an_absent_label_gives_no_gradient() -> None:
    """Its output has no gradient at all, and samples without it have exactly zero."""
    (a, classes), (b, _) = example(0), example(1)
    a.requires_grad_()
    b.requires_grad_()
    targets = {"a": Target(torch.tensor([1]), classes[1:])}

    losses = label_losses({"a": a, "b": b}, targets, background=BACKGROUND)
    weighted_sum(losses, {}).backward()

    assert set(losses) == {"a"}
    assert b.grad is None
    assert a.grad is not None
    assert not a.grad[0].any()
    assert a.grad[1].any()


def test_label_weights_scale_their_term() -> None:
    """A weight of two doubles, a missing one is one."""
    logits, classes = example()
    targets = {label: Target(torch.arange(2), classes) for label in ("a", "b")}
    losses = label_losses({"a": logits, "b": logits}, targets, background=BACKGROUND)

    assert torch.allclose(weighted_sum(losses, {"a": 2.0}), 2 * losses["a"] + losses["b"])


def test_deep_supervision_weighs_coarser_scales_less() -> None:
    """Three equal scales cost 1 + 1/2 + 1/4 of one."""
    logits, classes = example()
    target = {"a": Target(torch.arange(2), classes)}

    one = label_losses({"a": logits}, target, background=BACKGROUND)["a"]
    three = label_losses({"a": torch.stack([logits] * 3, 1)}, target, background=BACKGROUND)["a"]

    assert torch.allclose(three, 1.75 * one)
