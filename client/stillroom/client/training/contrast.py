"""What a student's maps cost beside a teacher's (arXiv 2406.03173). Pure functions of tensors.

Three defects of the published code are not here: its 1x1 projections were made anew for every batch
and never learned, its softened outputs had one channel, whose divergence is always 0, and it
took every batch to be full.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool3d,
    cross_entropy,
    interpolate,
    kl_div,
    log_softmax,
    normalize,
)

Pair = tuple[Tensor, Tensor]
"""The student's map and the teacher's."""


def info_nce(queries: Tensor, keys: Tensor, *, tau: float) -> Tensor:
    """How badly each query finds its own key among all: InfoNCE, one way (section 2.2 of the code).

    Args:
        queries: ``(N, ...)``, the student's; flattened, brought to length 1, computed in float32.
        keys: The same shape, the teacher's; key i belongs to query i.
        tau: Temperature, > 0.

    Returns:
        Scalar >= 0; 0 for a single query.
    """
    q = normalize(queries.float().flatten(1), dim=1)
    k = normalize(keys.float().flatten(1), dim=1)
    return cross_entropy(q @ k.T / tau, torch.arange(len(q), device=q.device))


def on_cells(student: Tensor, teacher: Tensor, grid: int) -> Pair:
    """Both ``(B, C, D, H, W)`` averaged over one grid of at most ``grid`` cells along each axis.

    Never more cells than either has voxels: repeated cells would be negatives of themselves.
    """
    sides = zip(student.shape[2:], teacher.shape[2:], strict=True)
    d, h, w = (min(grid, a, b) for a, b in sides)
    size = (d, h, w)
    return adaptive_avg_pool3d(student, size), adaptive_avg_pool3d(teacher, size)


def at_one_size(student: Tensor, teacher: Tensor) -> Pair:
    """Both ``(B, C, D, H, W)`` with the teacher's on the student's grid, linearly."""
    size = student.shape[2:]
    if teacher.shape[2:] != size:
        teacher = interpolate(teacher, size=size, mode="trilinear", align_corners=False)
    return student, teacher


def cell_vectors(x: Tensor) -> Tensor:
    """``(B, C, D, H, W)`` as ``(B * D * H * W, C)``: every cell a sample of its own."""
    return x.movedim(1, -1).flatten(0, -2)


def contrast(pair: Pair, *, tau: float, cells: int | None) -> Tensor:
    """InfoNCE between two maps of the same number of channels.

    Args:
        pair: Maps of one grid.
        tau: Temperature.
        cells: None takes an image's whole map as one vector, as published.
    """
    student, teacher = pair if cells is None else (cell_vectors(pair[0]), cell_vectors(pair[1]))
    return info_nce(student, teacher, tau=tau)


def soft_maps(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the student's softened output from the teacher's, times the temperature squared.

    Args:
        student: Logits ``(B, C, D, H, W)``, C >= 2.
        teacher: The same shape.
        temperature: > 0; the paper has 4.

    Returns:
        Scalar >= 0: the mean over voxels of KL(teacher || student) * temperature^2.

    Raises:
        ValueError: One channel, over which a softmax is 1 whatever the logits are.
    """
    if student.shape[1] < 2:
        raise ValueError("softened maps need two channels or more")
    ours = log_softmax(student.float() / temperature, 1)
    theirs = log_softmax(teacher.float() / temperature, 1)
    each = kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    return each.mean() * temperature**2


def projection(width_in: int, width_out: int) -> nn.Conv3d:
    """A learnable 1x1x1 convolution that brings one network's channels to another's number."""
    return nn.Conv3d(width_in, width_out, 1)
