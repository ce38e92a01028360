"""Every round's global model once more, from nothing but the noise that every site must have added.

An implementation of its own of what docs/adr says of encodings and averaging: whole arrays in
memory, bfloat16 by torch, no code of the project. It must give the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence

import noise
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Array = NDArray[np.float32]
Model = dict[str, Array]
TINY = np.float32(np.finfo(np.float32).tiny)
LEAST_ROW = 16


def digest(model: Model) -> str:
    """SHA-256 of its safetensors file."""
    return hashlib.sha256(save(model)).hexdigest()


def rounds(
    shapes: Mapping[str, tuple[int, ...]],
    samples: Mapping[str, Mapping[str, int]],
    *,
    encoding: str,
    stage: str,
    orders: Sequence[Sequence[str]],
) -> list[str]:
    """Digest of the model after every round.

    Args:
        shapes: Of the model.
        samples: Site -> cases per group.
        encoding: Of the stage.
        stage: Its name.
        orders: The sites that took part in each round, in the order of summation.
    """
    model, found = noise.initial(shapes), []
    left: dict[str, Model] = {}
    owed: Model = {name: np.zeros_like(value) for name, value in model.items()}
    for number, order in enumerate(orders, 1):
        changes: dict[str, Model] = {}
        for site in order:
            new = noise.trained(model, site, stage, number)
            changes[site] = new
            if encoding != "fp32":
                before = left.get(site)
                changes[site], left[site] = _sent(model, new, before, encoding)
        model = {
            name: _updated(model[name], name, changes, samples, encoding, owed) for name in model
        }
        found.append(digest(model))
    return found


def _sent(base: Model, new: Model, before: Model | None, encoding: str) -> tuple[Model, Model]:
    """What a site's update says of its change, and what it does not say."""
    said, rest = {}, {}
    for name, value in new.items():
        change = value - base[name]
        if before is not None:
            change = change + before[name]
        said[name] = rounded(change, encoding)
        rest[name] = change - said[name]
    return said, rest


def _updated(
    base: Array,
    name: str,
    changes: Mapping[str, Model],
    samples: Mapping[str, Mapping[str, int]],
    encoding: str,
    owed: Model,
) -> Array:
    """One tensor of the next model: the mean by cases of its group, then what the wire says of it."""
    group = group_of(name)
    total = sum(samples[site].get(group, 0) for site in changes)
    if total == 0:
        return base
    mean = np.zeros_like(base)
    for site, update in changes.items():
        count = samples[site].get(group, 0)
        if count:
            mean = mean + update[name] * np.float32(count)
    mean = mean / np.float32(total)
    if encoding == "fp32":
        return mean
    step = mean + owed[name]
    said = rounded(step, encoding)
    owed[name] = step - said
    return base + said


def rounded(change: Array, encoding: str) -> Array:
    """A change as an encoding says it."""
    if encoding == "bf16-delta":
        import torch

        said = torch.from_numpy(change).to(torch.bfloat16).to(torch.float32).numpy()
        return np.where(np.abs(said) < TINY, np.float32(0), said)
    rows = 1
    if change.ndim >= 2 and change.size // change.shape[0] >= LEAST_ROW:
        rows = change.shape[0]
    flat = change.reshape(rows, -1)
    scale = np.abs(flat).max(axis=1, keepdims=True) / np.float32(127)
    scale[scale < TINY] = 0
    steps = np.rint(flat * np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0))
    return (steps.astype(np.float32) * scale).astype(np.float32).reshape(change.shape)


def group_of(tensor: str) -> str:
    """Exchange group of a tensor."""
    first, *rest = tensor.split(".")
    return f"head.{rest[0]}" if first == "heads" else first
