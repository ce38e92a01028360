"""The fast path of a lone patch: the same sums, by another routine."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from stillroom.common.nn.lone_patch import UNFOLDED, LonePatchConv3d, quick_on_lone_patches
from stillroom.common.nn.teacher import Teacher

SHAPES = [(8, 8, 8), (12, 6, 10), (7, 8, 9), (2, 8, 8), (16, 5, 5)]
CONVOLUTIONS: list[Mapping[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 0},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (3, 3, 1), "padding": (1, 1, 0), "stride": (2, 2, 1)},
    {"kernel_size": 5, "padding": 2, "bias": False},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 1},
]


def twins(**settings: Any) -> tuple[nn.Conv3d, nn.Conv3d]:
    """PyTorch's and ours, with the same weights."""
    torch.manual_seed(3)
    plain = nn.Conv3d(4, 6, **settings)
    ours = copy.deepcopy(plain)
    quick_on_lone_patches(ours)
    return plain, ours


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Of a loss in which every value of the result counts differently."""
    given = x.clone().requires_grad_()
    found = module(given)
    weights = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    (found * weights).sum().backward()
    assert given.grad is not None
    return [
        found.detach(),
        given.grad,
        *(p.grad for p in module.parameters() if p.grad is not None),
    ]


TRIED = [
    (settings, shape)
    for settings in CONVOLUTIONS
    for shape in SHAPES
    if min(shape) > 2 or settings.get("padding", 0) != 0 or settings["kernel_size"] != 3
]
"""No kernel is larger than its patch."""


@pytest.mark.parametrize(("settings", "shape"), TRIED, ids=str)
def test_it_is_the_same_convolution(
    settings: Mapping[str, Any], shape: tuple[int, int, int]
) -> None:
    plain, ours = twins(**settings)
    assert type(ours) is LonePatchConv3d
    x = torch.randn(1, 4, *shape)
    expected, found = gradients(plain, x), gradients(ours, x)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_what_is_no_lone_small_patch_is_computed_as_before() -> None:
    plain, ours = twins(kernel_size=3, padding=1)
    large = -(-UNFOLDED // (4 * 16)) + 2
    for x in (torch.randn(2, 4, 8, 8, 8), torch.randn(1, 4, large, 16, 3)):
        assert torch.equal(plain(x), ours(x))
    assert torch.equal(plain.double()(x.double()), ours.double()(x.double()))


def test_a_network_keeps_its_names_and_its_weights() -> None:
    teacher = Teacher("aorta", 2, in_channels=1, channels=(4, 8, 8), restores=1)
    kinds = {type(one) for one in teacher.modules() if isinstance(one, nn.Conv3d)}
    assert kinds == {LonePatchConv3d}
    plain = copy.deepcopy(teacher)
    for one in plain.modules():
        if type(one) is LonePatchConv3d:
            one.__class__ = nn.Conv3d  # type: ignore[assignment]
    assert list(plain.state_dict()) == list(teacher.state_dict())
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(teacher(x)["aorta"], plain(x)["aorta"], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(
    "USE_MKLDNN=ON" not in torch.__config__.show(), reason="this PyTorch has no oneDNN"
)
def test_a_lone_patch_takes_the_routine_of_a_batch() -> None:
    plain, ours = twins(kernel_size=3, padding=1)
    x = torch.randn(1, 4, 16, 16, 16)

    def routines(module: nn.Module) -> set[str]:
        with profile() as looked:
            module(x)
        return {one.key for one in looked.key_averages()}

    assert "aten::mkldnn_convolution" in routines(ours)
    # Were this to fail, PyTorch has mended its choice and ours can go.
    assert "aten::mkldnn_convolution" not in routines(plain)
