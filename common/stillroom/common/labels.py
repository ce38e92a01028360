"""What a study looks at and what it learns: voxels, and labels on them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillroom.common.settings import Section
from stillroom.common.stage import Count, Name, Positive


class Volume(Section):
    """One fixed meaning of a voxel for everyone."""

    spacing_mm: tuple[Positive, Positive, Positive]
    """Working grid along (x, y, z)."""
    patch: tuple[Count, Count, Count]
    """Training patch and inference window along (x, y, z), in voxels; 1 along z for slices."""
    hu_window: tuple[float, float] = (-1024.0, 696.0)
    """Clipped to this range, then scaled to [-1, 1]."""
    roi: Literal["none", "heart"] = "none"
    """``heart``: crop to a mask or box of the site, or to what a ``localise`` stage found;
    a case with none of them keeps its whole field of view."""
    margin_mm: Annotated[float, Field(ge=0)] = 20.0
    """Added around the heart on every side when cropping."""
    min_slices: Count = 16
    """Series with fewer are quarantined."""
    condition_on: Name | None = None
    """A mask label whose raw integer map becomes the second input channel (the paper's option)."""

    @model_validator(mode="after")
    def _window_is_ordered(self) -> "Volume":
        if self.hu_window[0] >= self.hu_window[1]:
            raise ValueError("hu_window must be [low, high]")
        return self


class PointsLabel(Section):
    """Anatomical points, learned as balls and decoded by largest component."""

    kind: Literal["points"]
    names: Annotated[tuple[Name, ...], Field(min_length=1)]
    radius_mm: Positive = 4.0
    tolerance_mm: Positive = 10.0
    """A decoded point farther from the truth than this counts as missed."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order of their index, background (0) left out."""
        return self.names


class MaskLabel(Section):
    """A segmentation with one or more classes."""

    kind: Literal["mask"]
    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    min_dice: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A class below this Dice counts as not detected in that case."""
    smallest_mm: Positive | None = None
    """Diameter of the smallest structure that has to be found; `study check` then says which stages
    work on a grid too coarse for it."""


class BagLabel(Section):
    """One class for a whole scan, as reports have it: nobody drew where."""

    kind: Literal["bag"]
    classes: Annotated[tuple[Name, ...], Field(min_length=2)]
    """Every class, the one that means nothing was found included."""


Label = Annotated[PointsLabel | MaskLabel | BagLabel, Field(discriminator="kind")]
VoxelLabel = PointsLabel | MaskLabel
"""What a network predicts voxel by voxel."""
