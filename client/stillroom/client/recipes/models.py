"""Networks kept warm between rounds: built once, refilled with each round's weights."""

from collections import OrderedDict
from dataclasses import replace

from torch import nn

from stillroom.client.recipes.context import RecipeContext
from stillroom.client.training.device import Device
from stillroom.common.canonical import digest
from stillroom.common.manifest import Weights
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import initial, load
from stillroom.common.study import Stage, Study

KEPT = 6
_memory: OrderedDict[tuple[str, str, str], nn.Module] = OrderedDict()


def network(
    study: Study,
    stage: Stage,
    weights: Weights,
    device: Device,
) -> nn.Module:
    """The network of a training stage with ``weights``, on ``device``; shared between callers."""
    key = (digest(study.model_dump(mode="json")), stage.name, device.kind)
    if key not in _memory:
        # Whatever it draws is overwritten, and the round's generator stays where it is: a round is
        # the same whether its networks were warm or not.
        _memory[key] = device.place(initial(lambda: module_of(study, stage), 0))
        while len(_memory) > KEPT:
            _memory.popitem(last=False)
    _memory.move_to_end(key)
    load(_memory[key], weights)
    # Whoever froze it has no say over the next one who asks for it.
    return _memory[key].requires_grad_(requires_grad=True)


def frozen(context: RecipeContext, name: str, device: Device) -> nn.Module:
    """The network that the earlier stage ``name`` left, in evaluation mode and without gradients."""
    weights, _ = context.teachers[name]
    module = network(context.study, context.study.stage_named(name), weights, device)
    return module.eval().requires_grad_(requires_grad=False)


def begun(context: RecipeContext) -> RecipeContext:
    """``context`` with the weights that its round begins from.

    In the first round of a stage with ``start``, tensors of equal name and shape are those of that
    earlier stage. Every site does the same, so the average is as if the server had done it; what
    the site sends is still told apart from the model that it was sent.
    """
    if context.stage.start is None or context.round > 1 or context.weights is None:
        return context
    theirs, _ = context.teachers[context.stage.start]
    weights = {
        name: theirs[name] if name in theirs and theirs[name].shape == own.shape else own
        for name, own in context.weights.items()
    }
    return replace(context, weights=weights)
