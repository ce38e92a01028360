"""U-Nets for slices, inside the pipeline for volumes: a pocket-sized student and its teacher.

Multi-scale contrastive distillation (arXiv 2406.03173, code): the students S1 ``[16, 32, 64]`` and S2
``[32, 64, 128]`` have one convolution per block, the teacher T1 ``[64, 128, 256, 512, 1024]`` has two
and a second decoder that reconstructs its input. The original normalises over the batch, which no
federation can average honestly: here it is per image and channel (instance norm with scale and
shift), and the numbers of parameters are the paper's. Every slice is a sample of its own; a
patch may be one slice or a stack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.nn.slices import as_slices, as_volumes
from stillroom.common.nn.trunk import Features, Student, widths


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a slice encoder found, finest first.

    Attributes:
        skips: ``(N, C_i, H / 2^i, W / 2^i)`` before each halving.
        stride4: ``(N, C_1, H / 4, W / 4)``, the second level after its halving (the paper's p2).
        bottom: ``(N, C_last, ...)``, the deepest map.
    """

    skips: tuple[Tensor, ...]
    stride4: Tensor
    bottom: Tensor


class SliceEncoder(nn.Module):
    """Blocks with a halving after each but the last.

    Args:
        in_channels: Of the input.
        channels: Per level, at least three; the last is the bottleneck's.
        convs: Convolutions per block.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, convs: int) -> None:
        super().__init__()
        pairs = zip((in_channels, *channels), channels, strict=False)
        self.levels = nn.ModuleList(_block(a, b, convs) for a, b in pairs)
        self.halve = nn.MaxPool2d(2)

    @override
    def forward(self, x: Tensor) -> Encoded:
        skips: list[Tensor] = []
        halved: list[Tensor] = []
        for level in list(self.levels)[:-1]:
            skips.append(level(x))
            x = self.halve(skips[-1])
            halved.append(x)
        return Encoded(tuple(skips), stride4=halved[1], bottom=self.levels[-1](x))


class SliceDecoder(nn.Module):
    """Transposed convolutions, each joined with its skip; gives ``(N, channels[0], H, W)``.

    Args:
        channels: As of the encoder.
        convs: Convolutions per block.
    """

    def __init__(self, channels: Sequence[int], *, convs: int) -> None:
        super().__init__()
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.levels = nn.ModuleList(_block(2 * b, b, convs) for _, b in pairs)

    @override
    def forward(self, found: Encoded) -> Tensor:
        z = found.bottom
        for up, level, skip in zip(self.up, self.levels, reversed(found.skips), strict=True):
            z = level(torch.cat([skip, up(z)], 1))
        return z


class PocketUnet(Student):
    """The paper's student: one convolution, norm and ReLU per block; groups as every student.

    Args:
        in_channels: 1, or 2 when conditioned on a label map.
        heads: Label type -> number of outputs, background included.
        channels: Per level, at least three.
    """

    def __init__(
        self, in_channels: int, heads: Mapping[str, int], channels: Sequence[int] = (16, 32, 64)
    ) -> None:
        super().__init__(channels[0], heads)
        self.widths = widths(encoder=channels[1], bottleneck=channels[-1], decoder=channels[0])
        self.encoder = SliceEncoder(in_channels, channels, convs=1)
        self.decoder = SliceDecoder(channels, convs=1)

    @override
    def features(self, x: Tensor) -> Features:
        found = self.encoder(as_slices(x))
        return _maps(found, self.decoder(found), depth=x.shape[2])


class SliceTeacher(nn.Module):
    """The paper's CNN teacher T1: two convolutions per block. All but reconstruction is ``cnn``.

    Args:
        label: The label type it learns.
        outputs: Classes, background included.
        in_channels: 1, or 2 when conditioned on a label map.
        channels: Per level, at least three.
        restores: Channels of the input that a second decoder, group ``reconstruction``, makes
            again from the shared encoder and its skips; 0 for none.
    """

    def __init__(
        self,
        label: str,
        outputs: int,
        *,
        in_channels: int,
        channels: Sequence[int],
        restores: int = 0,
    ) -> None:
        super().__init__()
        self.label = label
        self.widths = widths(encoder=channels[1], bottleneck=channels[-1], decoder=channels[0])
        self.cnn = nn.ModuleDict(
            {
                "encoder": SliceEncoder(in_channels, channels, convs=2),
                "decoder": SliceDecoder(channels, convs=2),
                "out": nn.Conv3d(channels[0], outputs, 1),
            }
        )
        self.reconstruction: nn.ModuleDict | None = None
        if restores:
            again = {
                "decoder": SliceDecoder(channels, convs=2),
                "out": nn.Conv3d(channels[0], restores, 1),
            }
            self.reconstruction = nn.ModuleDict(again)

    def features(self, x: Tensor) -> Features:
        """Maps inside the network for ``x`` ``(B, Cin, D, H, W)``."""
        found = self.cnn["encoder"](as_slices(x))
        return _maps(found, self.cnn["decoder"](found), depth=x.shape[2])

    def logits(self, features: Features) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` under the label's name."""
        return {self.label: self.cnn["out"](features.decoder)}

    def restored(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What ``forward`` gives, and the first channels of ``x`` made again from the encoder.

        Raises:
            ValueError: Built without reconstruction.
        """
        if self.reconstruction is None:
            raise ValueError("this teacher was built without a reconstruction head")
        found, depth = self.cnn["encoder"](as_slices(x)), x.shape[2]
        logits = self.logits(_maps(found, self.cnn["decoder"](found), depth=depth))
        again = as_volumes(self.reconstruction["decoder"](found), depth)
        return logits, self.reconstruction["out"](again)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, 1 + classes, D, H, W)`` under the label's name for ``x`` ``(B, Cin, D, H, W)``."""
        return self.logits(self.features(x))


def least_side(channels: Sequence[int]) -> tuple[int, int]:
    """Of what a slice's sides are multiples, and their least: a bottleneck of two by two pixels."""
    multiple = 2 ** max(len(channels) - 1, 0)
    return multiple, 2 * multiple


def _maps(found: Encoded, decoded: Tensor, *, depth: int) -> Features:
    return Features(
        encoder=as_volumes(found.stride4, depth),
        bottleneck=as_volumes(found.bottom, depth),
        decoder=as_volumes(decoded, depth),
    )


def _block(width_in: int, width_out: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convs):
        first = width_out if number else width_in
        layers += [
            nn.Conv2d(first, width_out, 3, padding=1),
            nn.InstanceNorm2d(width_out, affine=True),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
