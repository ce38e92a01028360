"""Networks kept warm between rounds: built once, refilled with each round's weights."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from stillroom.client.training.device import Device
from stillroom.common.canonical import digest
from stillroom.common.manifest import Weights
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.weights import load
from stillroom.common.study import Stage, Study

KEPT = 4
_memory: OrderedDict[tuple[str, str, str], nn.Module] = OrderedDict()


def network(
    study: Study,
    stage: Stage,
    weights: Weights,
    device: Device,
    *,
    build: Callable[[Study, Stage], nn.Module] = module_of,
) -> nn.Module:
    """The network of a training stage with ``weights``, on ``device``; shared between callers."""
    key = (digest(study.model_dump(mode="json")), stage.name, device.kind)
    if key not in _memory:
        _memory[key] = device.place(build(study, stage))
        while len(_memory) > KEPT:
            _memory.popitem(last=False)
    _memory.move_to_end(key)
    load(_memory[key], weights)
    return _memory[key]
