"""Architecture and size of the networks a study names."""

from typing import Literal

from pydantic import model_validator

from stillroom.common.settings import Section
from stillroom.common.stage import Count


class Model(Section):
    """Architecture and size of a teacher or of the student."""

    arch: Literal[
        "dynunet", "slice-unet", "light-swin", "swin-unetr", "pocket-unet", "diffusion-unet"
    ]
    channels: tuple[Count, ...] | None = None
    """``dynunet``, ``slice-unet`` and ``pocket-unet``: features per level, at least three."""
    feature_size: Count | None = None
    """``light-swin`` and ``swin-unetr``: width of the first stage."""

    @model_validator(mode="after")
    def _size_fits_arch(self) -> "Model":
        sizes = ("channels", "feature_size")
        wanted, other = sizes if self.arch.endswith("unet") else sizes[::-1]
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.arch} needs {wanted} and nothing else")
        if self.arch in {"slice-unet", "pocket-unet"} and len(self.channels or ()) < 3:
            raise ValueError(f"{self.arch} needs at least three channels")
        return self
