"""Where networks lie in memory."""

import pytest
import torch

from stillroom.client.training.device import Device
from stillroom.common.nn.denoiser import Denoiser
from stillroom.common.nn.weights import export, initial


@pytest.mark.parametrize("bf16", [False, True])
def test_networks_for_slices_fit_a_device_laid_out_for_volumes(*, bf16: bool) -> None:
    """A processor that keeps channels last takes two-dimensional kernels as they are."""
    device = Device("cpu", bf16=bf16, channels_last=True, reason="a test")
    module = initial(lambda: Denoiser((8, 8)), 1)
    before = export(module)

    placed = device.place(torch.nn.ModuleDict({"flat": module, "deep": torch.nn.Conv3d(2, 2, 3)}))

    deep = placed["deep"].weight  # type: ignore[index]
    assert deep.is_contiguous(memory_format=torch.channels_last_3d)
    assert all((value == before[name]).all() for name, value in export(module).items())
    x = device.move(torch.randn(1, 1, 2, 16, 16))
    with torch.no_grad(), device.autocast():
        assert module.features(x).decoder.isfinite().all()  # type: ignore[operator]
