"""Networks for slices inside a pipeline for volumes."""

from torch import Tensor


def as_slices(x: Tensor) -> Tensor:
    """``(B, C, D, H, W)`` as ``(B * D, C, H, W)``: every axial slice a sample of its own."""
    b, c, d, h, w = x.shape
    return x.transpose(1, 2).reshape(b * d, c, h, w)


def as_volumes(x: Tensor, depth: int) -> Tensor:
    """``(B * D, C, H, W)`` back as ``(B, C, D, H, W)``; ``as_slices`` undone.

    Args:
        x: Slices.
        depth: D.
    """
    n, c, h, w = x.shape
    return x.reshape(n // depth, depth, c, h, w).transpose(1, 2)
