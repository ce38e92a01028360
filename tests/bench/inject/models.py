"""Shapes of the models of the bench: SwinUNETR's 62 million, and one that costs nothing to move."""

import json
from pathlib import Path

TINY = {
    "encoder.weight": (16, 8, 3, 3, 3),
    "encoder.bias": (16,),
    "decoder.weight": (8, 16, 3, 3, 3),
    "heads.vessels.weight": (3, 8, 1, 1, 1),
    "heads.vessels.bias": (3,),
    "heads.points.weight": (7, 8, 1, 1, 1),
}
"""Six tensors, 28 kB."""


def swin_unetr(cache: Path) -> dict[str, tuple[int, ...]]:
    """Trainable tensors of MONAI's SwinUNETR, feature size 48, 1 channel in, 14 out.

    151 tensors, 62.19 million values. Kept in ``cache``: peers have no torch.
    """
    if not cache.exists():
        from monai.networks.nets import SwinUNETR

        network = SwinUNETR(in_channels=1, out_channels=14, feature_size=48)
        shapes = {name: list(value.shape) for name, value in network.named_parameters()}
        cache.write_text(json.dumps(shapes), "utf-8")
    return {name: tuple(s) for name, s in json.loads(cache.read_text("utf-8")).items()}
