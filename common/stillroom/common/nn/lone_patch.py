"""Convolutions of one small patch, which PyTorch computes slowly on a processor.

PyTorch hands a 3D convolution of float32 to oneDNN only when the batch has more than one sample, or when
batch x channels x depth x height exceeds 20,480 (``ConvParams::use_mkldnn`` in its ``Convolution.cpp``,
2.13); a lone small patch is unfolded into a matrix of 27 times its size. One patch a step is what a site
without a GPU trains on, so such a patch goes through as two halves that overlap by what the kernel
needs: the same sums over the same numbers, as a batch of two. On a core of an EPYC a step of the demo's
CNN takes a fifth of the time, one of its student less than half (``tests/bench/bench_lone_patch.py``).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

UNFOLDED = 20_480
"""Channels x depth x height of a lone patch up to which PyTorch does not ask oneDNN."""
LEAST = 4
"""Planes of the result that are worth cutting in two."""


class LonePatchConv3d(nn.Conv3d):
    """``nn.Conv3d`` in all but the path that a lone small patch takes; weights and names are the same."""

    @override
    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """``(B, C, D, H, W)`` to ``(B, C', D', H', W')``, as ``nn.Conv3d``."""
        padding = self.padding
        if isinstance(padding, str) or not self._unfolds(input):
            return super().forward(input)
        edge, kernel, stride = padding[0], self.kernel_size[0], self.stride[0]
        planes = (input.shape[2] + 2 * edge - kernel) // stride + 1
        if planes < LEAST or planes % 2:
            return super().forward(input)
        # Each half of the result, and the planes that it is computed from.
        half = planes // 2
        needed = (half - 1) * stride + kernel
        padded = functional.pad(input, (0, 0, 0, 0, edge, edge))
        halves = torch.cat([padded.narrow(2, start, needed) for start in (0, half * stride)])
        inside = (0, *padding[1:])
        found = functional.conv3d(halves, self.weight, self.bias, self.stride, inside)
        return torch.cat([found[:1], found[1:]], dim=2)

    def _unfolds(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.shape[0] == 1
            and x.shape[1] * x.shape[2] * x.shape[3] <= UNFOLDED
            and self.groups == 1
            and self.padding_mode == "zeros"
            and self.dilation == (1, 1, 1)
            and max(self.kernel_size) > 1
        )


def quick_on_lone_patches(module: nn.Module) -> None:
    """Have every 3D convolution in ``module`` take the fast path; weights stay where they are."""
    for child in module.modules():
        if type(child) is nn.Conv3d:
            child.__class__ = LonePatchConv3d
