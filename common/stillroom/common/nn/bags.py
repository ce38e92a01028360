"""Multiple-instance learning: one class for a bag of tiles, of which nobody said which matter.

A scan's tiles become vectors, an attention pool makes one vector of them, and one layer classifies
it. Tiles have no order and no place here.
"""

import warnings
from collections.abc import Sequence

import torch
from monai.networks.nets import MILModel
from torch import Tensor, nn
from typing_extensions import override

from stillroom.common.nn.tiles import Extractor

TRANSFORMER_MULTIPLE = 8
"""MONAI's transformer pool has eight heads."""


class GatedPool(nn.Module):
    """Gated attention (Ilse, Tomczak & Welling, ICML 2018, eq. 9).

    a_i = softmax_i(w^T (tanh(V h_i) * sigmoid(U h_i))), pooled = sum_i a_i h_i.

    Args:
        width: Of a tile's vector.
        hidden: Of the two branches.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.v, self.u = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.w = nn.Linear(hidden, 1, bias=False)

    def attention(self, tiles: Tensor) -> Tensor:
        """Weights ``(T,)`` of ``(T, width)``: not negative, and 1 in sum."""
        scores = self.w(torch.tanh(self.v(tiles)) * torch.sigmoid(self.u(tiles)))
        return scores.float().squeeze(1).softmax(0)

    @override
    def forward(self, tiles: Tensor) -> Tensor:
        """``(width,)`` of ``(T, width)``."""
        return self.attention(tiles) @ tiles.float()


class TransformerPool(nn.Module):
    """Tiles look at each other before they are weighed (arXiv 2111.01556), by MONAI's MILModel.

    MILModel itself reads 2D images only, through a backbone of its own; its head takes vectors and
    does not mind where they come from, so only that is used.

    Args:
        width: Of a tile's vector; a multiple of ``TRANSFORMER_MULTIPLE``.
        depth: Layers.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # PyTorch advises MILModel on its speed; nobody here can follow the advice.
            warnings.simplefilter("ignore", UserWarning)
            mil = MILModel(
                width,
                "att_trans",
                pretrained=False,
                backbone=nn.Identity(),
                backbone_num_features=width,
                trans_blocks=depth,
            )
        mil.myfc = nn.Identity()  # classified outside, as a head of its own group
        self.mil = mil

    @override
    def forward(self, tiles: Tensor) -> Tensor:
        """``(width,)`` of ``(T, width)``."""
        return self.mil.calc_head(tiles[None])[0].float()


class BagClassifier(nn.Module):
    """Groups ``encoder`` (where it learns), ``pool`` and ``head.<label>``.

    Args:
        label: The label type.
        classes: How many it has.
        features: Length of the extractor's vectors.
        width: Of a tile's vector in the pool.
        pool: Takes ``(T, width)``.
        extractor: Learns with the rest; None where a frozen one is used.
    """

    def __init__(
        self,
        label: str,
        classes: int,
        *,
        features: int,
        width: int,
        pool: GatedPool | TransformerPool,
        extractor: Extractor | None,
    ) -> None:
        super().__init__()
        self.label = label
        if extractor is not None:
            self.encoder = extractor.encoder
        self._extractor = (extractor,)
        self.pool = nn.ModuleDict({"embed": nn.Linear(features, width), "attention": pool})
        self.heads = nn.ModuleDict({label: nn.Linear(width, classes)})

    @property
    def extractor(self) -> Extractor | None:
        """The one that learns; None where a frozen one is used."""
        return self._extractor[0]

    @override
    def forward(self, features: Tensor, sizes: Sequence[int]) -> Tensor:
        """Logits ``(B, classes)``.

        Args:
            features: ``(sum of sizes, features)``, bag by bag.
            sizes: Tiles of each bag, at least one.
        """
        embedded = torch.relu(self.pool["embed"](features))
        bags = [self.pool["attention"](bag) for bag in embedded.split(list(sizes))]
        return self.heads[self.label](torch.stack(bags))
