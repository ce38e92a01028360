"""What an ``adapt`` stage exchanges: little tensors on top of a network that stays as it is.

A linear layer or the decoder (Huang et al., arXiv 2402.15216; FedKD's last-layer training, arXiv
2407.07557). A further way of adapting is one more ``Adapter`` here, with its line in ``_KINDS``.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.recipes.adapt import AdaptOptions
from stillroom.common.study import Stage, Study

DECODERS: Mapping[str, tuple[str, ...]] = {
    "student": ("decoder",),
    "denoiser": ("up_blocks", "out"),
}
"""Kind of backbone -> children that are its decoder."""


class Adapter(nn.Module):
    """One new head; the backbone is given to every call and never a part of it.

    Args:
        label: What it learns.
        outputs: Classes, background included.
        backbone: What it will read, with whatever weights.
        reading: Passed on to the backbone's ``features``.
    """

    def __init__(
        self, label: str, outputs: int, *, backbone: nn.Module, reading: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.label, self.reading = label, dict(reading)
        self.heads = nn.ModuleDict({label: nn.Conv3d(width_of(backbone), outputs, 1)})

    def begin(self, backbone: nn.Module) -> None:
        """Take over what a first round starts from."""
        del backbone

    def read(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """The map ``(B, C, D, H, W)`` that the head reads."""
        raise NotImplementedError

    @override
    def forward(self, backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, outputs, D, H, W)`` under the label's name."""
        return {self.label: self.heads[self.label](self.read(backbone, x))}


class Linear(Adapter):
    """A 1x1x1 convolution and nothing else: ``outputs * (C + 1)`` scalars."""

    @override
    def read(self, backbone: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return dense(backbone, x, self.reading)


class Decoder(Adapter):
    """The head and a decoder of its own, which starts as the backbone's.

    Args:
        label: What it learns.
        outputs: Classes, background included.
        backbone: What it will read.
        reading: Passed on to the backbone's ``features``.
        parts: The backbone's children that are its decoder.
    """

    def __init__(
        self,
        label: str,
        outputs: int,
        *,
        backbone: nn.Module,
        reading: Mapping[str, int],
        parts: tuple[str, ...],
    ) -> None:
        super().__init__(label, outputs, backbone=backbone, reading=reading)
        self.parts = parts
        for part in parts:
            own = copy.deepcopy(backbone.get_submodule(part))
            if part == "out" and isinstance(own, nn.Sequential):
                own = own[:-1]  # Its convolution made noise; the head is in its place.
            self.add_module(part, own.requires_grad_(requires_grad=True))

    @override
    def begin(self, backbone: nn.Module) -> None:
        for part in self.parts:
            own, theirs = self.get_submodule(part), backbone.get_submodule(part).state_dict()
            own.load_state_dict({name: theirs[name] for name in own.state_dict()})

    @override
    def read(self, backbone: nn.Module, x: Tensor) -> Tensor:
        # The backbone with other children: a copy of references, so its own tensors stay frozen.
        grafted = copy.copy(backbone)
        own = {part: self.get_submodule(part) for part in self.parts}
        vars(grafted)["_modules"] = dict(backbone.named_children()) | own
        return dense(grafted, x, self.reading)


class Adapted(nn.Module):
    """A backbone and its adapter as one network that predicts.

    Args:
        backbone: Frozen, in evaluation mode.
        adapter: Learns.
    """

    def __init__(self, backbone: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.backbone, self.adapter = backbone, adapter

    @override
    def train(self, mode: bool = True) -> "Adapted":
        """Never the backbone: its dropout would make another network of it."""
        self.training = mode
        self.adapter.train(mode)
        return self

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, outputs, D, H, W)`` per label for ``x`` ``(B, Cin, D, H, W)``."""
        logits: dict[str, Tensor] = self.adapter(self.backbone, x)
        return logits


def dense(network: nn.Module, x: Tensor, reading: Mapping[str, int]) -> Tensor:
    """What a linear layer reads of a student, teacher or denoiser: ``(B, C, D, H, W)``."""
    readable: Any = network
    found: Tensor = readable.features(x, **reading).decoder
    return found


def width_of(network: nn.Module) -> int:
    """Channels of that map."""
    widths: Any = network.widths
    return int(widths["decoder"])


def ground(study: Study, stage: Stage) -> dict[str, Any]:
    """``backbone`` and ``reading``, as every adapter of ``stage`` is built on them."""
    below = study.stage_named(stage.backbone or "")
    if below.declared.build is None:
        raise ValueError(f"stage {stage.name} has no backbone")
    reading = {"timestep": stage.chosen(AdaptOptions).timestep, "seed": study.study.seed}
    denoises = below.declared.produces == "denoiser"
    return {"backbone": below.declared.build(study, below), "reading": reading if denoises else {}}


def build_adapter(study: Study, stage: Stage) -> Adapter:
    """The stage's adapter with fresh weights."""
    if stage.label is None:
        raise ValueError(f"stage {stage.name} has no label")
    options, shared = stage.chosen(AdaptOptions), ground(study, stage)
    kind = study.stage_named(stage.backbone or "").declared.produces or ""
    return _KINDS[options.how](stage.label, 1 + len(study.label[stage.label].classes), shared, kind)


_KINDS: dict[str, Callable[[str, int, dict[str, Any], str], Adapter]] = {
    "linear": lambda label, outputs, shared, _: Linear(label, outputs, **shared),
    "decoder": lambda label, outputs, shared, kind: Decoder(
        label, outputs, **shared, parts=DECODERS[kind]
    ),
}
