"""What AdamW remembers of earlier steps, as named arrays: kept by a site from round to round."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

PARTS = ("exp_avg", "exp_avg_sq")
"""Running means of the gradient and of its square, of every parameter that ever had one."""


def export_moments(module: nn.Module, optimiser: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """``<parameter>.step`` and both moments of every parameter that was ever stepped; copies."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, parameter in module.named_parameters():
        state = optimiser.state.get(parameter)
        if not state:
            continue
        arrays[f"{name}.step"] = np.asarray(float(state["step"]), np.float32).reshape(1)
        for part in PARTS:
            value: Tensor = state[part]
            arrays[f"{name}.{part}"] = (
                value.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
            )
    return arrays


def restore_moments(
    module: nn.Module, optimiser: torch.optim.AdamW, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Continue where ``export_moments`` left off; ``optimiser`` must not have stepped yet.

    Raises:
        ValueError: The arrays belong to another network.
    """
    parameters = dict(module.named_parameters())
    for name in sorted({key.rpartition(".")[0] for key in arrays}):
        if name not in parameters:
            raise ValueError("moments of a parameter that this network does not have")
        parameter = parameters[name]
        state: dict[str, Any] = {"step": torch.tensor(float(arrays[f"{name}.step"][0]))}
        for part in PARTS:
            value = arrays[f"{name}.{part}"]
            if value.shape != tuple(parameter.shape):
                raise ValueError(f"moments of {name} are {value.shape}")
            # A copy in the parameter's own memory layout, as AdamW would have made it.
            state[part] = torch.empty_like(parameter, requires_grad=False).copy_(
                torch.from_numpy(np.array(value, np.float32))
            )
        optimiser.state[parameter] = state
