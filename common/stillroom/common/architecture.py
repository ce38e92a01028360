"""Architecture and size of the networks a study names."""

from typing import Literal

from pydantic import model_validator

from stillroom.common.settings import Section
from stillroom.common.stage import Count


class Model(Section):
    """Architecture and size of a teacher or of the student."""

    arch: Literal["dynunet", "light-swin", "swin-unetr"]
    channels: tuple[Count, ...] | None = None
    """``dynunet``: features per level."""
    feature_size: Count | None = None
    """``light-swin`` and ``swin-unetr``: width of the first stage."""

    @model_validator(mode="after")
    def _size_fits_arch(self) -> "Model":
        wanted, other = (
            ("channels", "feature_size") if self.arch == "dynunet" else ("feature_size", "channels")
        )
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.arch} needs {wanted} and nothing else")
        return self
