"""What all students share: a trunk that shows its maps, and one head per label type."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Features:
    """Maps inside the trunk, for recipes that learn from more than the output.

    Attributes:
        encoder: ``(B, C, D/4, H/4, W/4)``, the encoder at stride 4; networks for slices leave D as it is.
        bottleneck: ``(B, C, ...)``, the deepest map: stride 8 for ``LightSwin``, 32 for ``SwinStudent``.
        decoder: ``(B, C, D, H, W)``, what the heads read.
    """

    encoder: Tensor
    bottleneck: Tensor
    decoder: Tensor


Scale = Literal["encoder", "bottleneck", "decoder"]
"""A map of ``Features``."""


def widths(*, encoder: int, bottleneck: int, decoder: int) -> dict[Scale, int]:
    """Channels of the maps in ``Features``, which whoever learns from them has to know before."""
    return {"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder}


class Student(nn.Module):
    """A trunk with one head per label type.

    Args:
        width: Channels of the decoder's output.
        heads: Label type -> number of outputs, background included.
    """

    widths: Mapping[Scale, int]

    def __init__(self, width: int, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({label: nn.Conv3d(width, n, 1) for label, n in heads.items()})

    def features(self, x: Tensor) -> Features:
        """Maps inside the trunk for ``x`` ``(B, Cin, D, H, W)``."""
        raise NotImplementedError

    def logits(self, features: Features) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` per label type from the trunk's maps."""
        return {label: head(features.decoder) for label, head in self.heads.items()}

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` per label type for ``x`` ``(B, Cin, D, H, W)``."""
        return self.logits(self.features(x))
