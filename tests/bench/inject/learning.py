"""Steps of MONAI's SwinUNETR, the network whose 62 million weights the bench moves, on made-up patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Learner:
    """One site's network, kept warm from round to round as the product's runner keeps its own.

    Args:
        steps: Of AdamW a round.
        patch: Edge of the cube that a step learns from, in voxels; one cube a step.
    """

    def __init__(self, steps: int, patch: int) -> None:
        from monai.networks.nets import SwinUNETR

        self.steps, self.patch = steps, patch
        self.network = SwinUNETR(in_channels=1, out_channels=14, feature_size=48)

    def train(
        self, weights: Mapping[str, NDArray[np.float32]], seed: int
    ) -> dict[str, NDArray[np.float32]]:
        """What ``steps`` steps make of ``weights``: cross entropy against made-up classes."""
        import torch
        from torch.nn.functional import cross_entropy

        random = torch.Generator().manual_seed(seed)
        named = dict(self.network.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                named[name].copy_(torch.from_numpy(np.array(value)))
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        size = (self.patch,) * 3
        for _ in range(self.steps):
            image = torch.randn((1, 1, *size), generator=random)
            classes = torch.randint(0, 14, (1, *size), generator=random)
            optimiser.zero_grad(set_to_none=True)
            cross_entropy(self.network(image), classes).backward()
            optimiser.step()
        return {name: value.detach().numpy().copy() for name, value in named.items()}


def learner_of(settings: Mapping[str, Any]) -> Learner | None:
    """As the file of hooks asks for; None where nothing is to be learned."""
    wanted = settings.get("training")
    return None if wanted is None else Learner(wanted["steps"], wanted["patch"])
