"""A network's weights as named arrays: what a manifest lists and an update carries.

PyTorch's state dict is not that list: DynUNet's names every weight twice and SwinUNETR's holds
7.5 MB of index tables. Here each parameter and each float buffer appears once.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillroom.common.manifest import Manifest, TensorSpec, Weights


def manifest_of(module: nn.Module) -> Manifest:
    """Every tensor of ``module`` that training changes, in the order of ``export``."""
    return Manifest(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), dtype="float32", group=group_of(name))
            for name, tensor in named_tensors(module)
        )
    )


def group_of(name: str) -> str:
    """Exchange group of a tensor: ``heads.vessels.bias`` -> ``head.vessels``, else the first part."""
    first, *rest = name.split(".")
    return f"head.{rest[0]}" if first == "heads" else first


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then float buffers, each storage once and under its first name."""
    seen: set[tuple[int, int]] = set()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        place = (tensor.data_ptr(), tensor.numel())
        if not tensor.is_floating_point() or place in seen:
            continue
        seen.add(place)
        yield name, tensor


def export(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Weights as float32 arrays in manifest order; copies, so later training leaves them alone."""
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        for name, tensor in named_tensors(module)
    }


def load(module: nn.Module, weights: Weights) -> None:
    """Copy ``weights`` into ``module``, on whatever device it is.

    Raises:
        ValueError: Names or shapes are not the module's; a manifest check comes before this.
    """
    tensors = dict(named_tensors(module))
    if tensors.keys() != weights.keys():
        raise ValueError(f"{len(tensors.keys() ^ weights.keys())} tensor names differ")
    with torch.no_grad():
        for name, tensor in tensors.items():
            value = weights[name]
            if tuple(value.shape) != tuple(tensor.shape):
                raise ValueError(f"{name} is {value.shape}, expected {tuple(tensor.shape)}")
            # A received array may be a read-only view of the message; torch wants it writable.
            source = value if value.flags.writeable else value.copy()
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(source)))


def initial(builder: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What ``builder`` makes with PyTorch's generator at ``seed``; the caller's own is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder()
