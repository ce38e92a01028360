"""Masked context modelling: the vectors of hidden tiles, guessed from those that are seen.

Pisula & Bozek, arXiv 2403.05325. The abstract fixes what is predicted (a larger frozen teacher's
features of masked patches, not pixels) and that the loss is of L1 type. Window, ratio, predictor
and optimiser were never published: those here are our own choices.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from typing_extensions import override

from stillroom.common.nn.tiles import Extractor, pooled

HEADS = 4


class Context(nn.Module):
    """What is thrown away after the warm-up: mask token, places, predictor and projection.

    A pre-norm transformer (our own choice) over one token for each tile of a window.

    Args:
        count: Tiles of a window.
        width: Of the encoder's vectors.
        target: Of the teacher's.
        dim: Of a token; a multiple of ``HEADS``.
        depth: Layers.
    """

    def __init__(self, count: int, width: int, target: int, *, dim: int, depth: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.02 * torch.randn(count, dim))
        self.enter = nn.Linear(width, dim)
        layer = nn.TransformerEncoderLayer(
            dim,
            HEADS,
            dim_feedforward=4 * dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.predictor = nn.TransformerEncoder(
            layer, depth, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.projection = nn.Linear(dim, target)

    @override
    def forward(self, seen: Tensor, hidden: Tensor) -> Tensor:
        """Guesses ``(B, N, target)`` for every tile.

        Args:
            seen: ``(V, width)``, vectors of the tiles that are not hidden, window by window.
            hidden: ``(B, N)`` bool.
        """
        tokens = self.mask.to(seen.dtype).expand(*hidden.shape, -1).clone()
        tokens[~hidden] = seen
        return self.projection(self.predictor(self.enter(tokens) + self.places))


class ContextModel(nn.Module):
    """An encoder that learns, and what guesses for it. Groups ``encoder`` and ``context``.

    Args:
        extractor: Its ``encoder.*`` stay under these names.
        context: Guesses.
    """

    def __init__(self, extractor: Extractor, context: Context) -> None:
        super().__init__()
        self.encoder, self.context = extractor.encoder, context
        self._extractor = (extractor,)

    @property
    def extractor(self) -> Extractor:
        """What is left when the warm-up is over."""
        return self._extractor[0]

    @override
    def forward(self, tiles: Tensor, hidden: Tensor) -> Tensor:
        """Guesses ``(B, N, target)``; not one pixel of a hidden tile is looked at.

        Args:
            tiles: ``(B * N, Cin, D, H, W)``, window by window.
            hidden: ``(B, N)`` bool.
        """
        return self.context(pooled(self.extractor, tiles[~hidden.flatten()]), hidden)


def targets_of(features: Tensor) -> Tensor:
    """A teacher's vectors ``(..., C)`` with mean 0 and variance 1 each (our own choice).

    Otherwise the loss would be about the few channels in which the teacher's numbers are large.
    """
    return layer_norm(features.float(), features.shape[-1:])


def context_loss(guesses: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Mean absolute error over the tiles that count.

    (1/|M|) sum over M of |guess - target|_1, divided by the number of channels (our own choice), so
    that a learning rate means the same for a wide and a narrow teacher.

    Args:
        guesses: ``(B, N, C)``.
        targets: ``(K, C)`` of the tiles that count, in the order of ``counted``.
        counted: ``(B, N)`` bool with K true.

    Returns:
        Scalar >= 0.
    """
    return (guesses[counted].float() - targets).abs().mean()
