"""What a prediction computes on: as training, plus bfloat16 on CPUs that have it in hardware."""

from dataclasses import replace

import torch

from stillroom.client.training.device import Device, Setting, choose_device

BF16_FEATURES = ("amx_bf16", "avx512_bf16")
"""Without one of these PyTorch emulates bfloat16, which is slower than fp32."""


def choose_processor(setting: Setting) -> Device:
    """The device for ``setting``, in bfloat16 where the hardware multiplies it.

    A prediction need not repeat to the last bit as training must, and the windows are 3 to 4 times
    cheaper (measured on a UNet of 8..64 features).

    Raises:
        ResourceError: As ``choose_device``.
    """
    device = choose_device(setting)
    if device.kind == "cuda":
        return device
    present = torch.cpu.get_capabilities()
    feature = next((name for name in BF16_FEATURES if present.get(name)), None)
    if feature is None:
        return device
    return replace(device, bf16=True, reason=f"CPU in bf16 ({feature}).")
