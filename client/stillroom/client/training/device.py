"""Where and how precisely to compute, and how to make it repeatable."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stillroom.common.errors import ResourceError

Setting = Literal["auto", "cpu", "cuda"]

BF16_FEATURES = ("amx_bf16", "avx512_bf16")
"""Instructions without which PyTorch emulates bfloat16."""
BF16_SIDE = 32
"""oneDNN's bf16 gradients of convolutions over maps of 2³ voxels, the bottleneck of a patch of 16,
differ from run to run (measured, torch 2.13); over 4³ and more they repeat to the last bit."""


@dataclass(frozen=True, slots=True)
class Device:
    """The chosen processor.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        bf16: Run forward passes under bfloat16 autocast.
        channels_last: Lay 3D maps out with channels last.
        reason: One sentence for the operator.
    """

    kind: Literal["cpu", "cuda"]
    bf16: bool
    channels_last: bool
    reason: str

    def place(self, module: nn.Module) -> nn.Module:
        """``module`` on this device, in its memory layout."""
        placed = module.to(self.kind)
        for parameter in placed.parameters() if self.channels_last else ():
            # Not what reads slices, whose kernels have one axis less.
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        return placed

    def move(self, x: Tensor) -> Tensor:
        """``x`` ``(B, C, D, H, W)`` on this device, in its memory layout."""
        if self.channels_last:
            return x.to(self.kind, memory_format=torch.channels_last_3d, non_blocking=True)
        return x.to(self.kind)

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        return torch.autocast(self.kind, dtype=torch.bfloat16, enabled=self.bf16)


def choose_device(setting: Setting, *, smallest_side: int = 0) -> Device:
    """The device that ``setting`` asks for.

    Args:
        setting: ``auto`` takes CUDA where there is one.
        smallest_side: Of the patches, in voxels. A CPU computes in bf16 only from
            ``BF16_SIDE`` on, and only with instructions for it.

    Raises:
        ResourceError: STR-500, ``cuda`` was asked for and PyTorch sees no such device.
    """
    present = torch.cuda.is_available()
    if setting == "cuda" and not present:
        raise ResourceError(
            "The configuration asks for a CUDA device and PyTorch sees none.",
            fix="Check the driver and how the container is started, or set device to auto or cpu.",
            code="STR-500",
        )
    if present and setting != "cpu":
        bf16 = torch.cuda.is_bf16_supported()
        name = torch.cuda.get_device_name()
        return Device("cuda", bf16, True, f"CUDA device {name}, {'bf16' if bf16 else 'fp32'}.")  # noqa: FBT003
    why = "the configuration says so" if setting == "cpu" else "PyTorch sees no CUDA device"
    # A step takes half the time with these instructions (measured on an EPYC: 0.37 -> 0.21 s for
    # the light student) and several times as long without them.
    has = torch.cpu.get_capabilities()
    bf16 = smallest_side >= BF16_SIDE and any(has.get(name) for name in BF16_FEATURES)
    return Device("cpu", bf16, bf16, f"CPU in {'bf16' if bf16 else 'fp32'}, because {why}.")


def has_spare_core(device: Device) -> bool:
    """Whether batches can be drawn beside computing on ``device`` without slowing it down.

    A step on a GPU leaves the processor idle. On a processor whose every core computes, a second
    thread would only take turns with the first.
    """
    return device.kind == "cuda" or torch.get_num_threads() < (os.cpu_count() or 1)


@contextmanager
def seeded(device: Device, seed: int) -> Iterator[None]:
    """PyTorch's generators at ``seed`` inside the block; deterministic algorithms on a CPU.

    The caller's generator state and setting are restored. On CUDA several 3D gradients have no
    deterministic form, so equal seeds give close results there, not equal bytes.
    """
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[0] if device.kind == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(device.kind == "cpu")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
