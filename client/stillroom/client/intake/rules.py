"""What a site says about its labels and its heart regions: the tables ``[labels]`` and ``[roi]``.

::

    [labels.chambers]
    files = "segmentations/*.nii.gz"
    classes = { LV = 1, RV = 3, myocardium = 2 }

    [labels.landmarks]
    files = "points.csv"
    classes = { RCC = "right cusp" }

    [roi]
    mask = "heart/**/*.nii.gz"

    [pictures]
    files = "slides/*/*.png"
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from stillroom.common.errors import ConfigError
from stillroom.common.study import Name, Section, Study

Pattern = Annotated[str, Field(min_length=1, max_length=400)]
"""Glob relative to the data folder; ``**`` stands for any number of folders."""


class LabelRule(Section):
    """Where one of the study's label types is on this site's disk, and how it is written."""

    files: Pattern
    classes: dict[Name, int | str] = Field(default_factory=dict)
    """Study class or point -> voxel value, segment or ROI number, or name in the file. When left
    out: values 1..n in the study's order for label maps, the study's own names elsewhere."""
    absent_is_background: bool = False
    """Accept a mask without any voxel: the annotator looked and there was nothing."""


class RoiRule(Section):
    """This site's own heart regions; they spare it the localiser."""

    mask: Pattern | None = None
    """Masks of the heart: any voxel but 0 of a label map, ``name`` in a SEG or RTSTRUCT."""
    name: str = "heart"
    box: Pattern | None = None
    """One file of boxes: CSV ``series, x_low, y_low, z_low, x_high, y_high, z_high`` or JSON
    ``{series: [[x, y, z], [x, y, z]]}``; LPS mm."""

    @model_validator(mode="after")
    def _one_source(self) -> "RoiRule":
        if (self.mask is None) == (self.box is None):
            raise ValueError("give either mask or box")
        return self


class PicturesRule(Section):
    """Folders of pictures that are cases: every folder with a match is one."""

    files: Pattern
    pixel_mm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Side of a pixel; when left out, the study's grid is taken for the pictures' own."""


class Rules(Section):
    """All of them."""

    labels: dict[Name, LabelRule] = Field(default_factory=dict)
    """By the study's name of the label type."""
    roi: RoiRule | None = None
    pictures: PicturesRule | None = None

    def check_against(self, study: Study) -> None:
        """Refuse a rule about a label or class that the study does not have.

        Raises:
            ConfigError: Names the rule's key (STR-102).
        """
        for label_name, rule in self.labels.items():
            label = study.label.get(label_name)
            if label is None:
                raise ConfigError(
                    f"labels.{label_name} is not a label of the study.",
                    fix=f"Use one of {', '.join(study.label)}.",
                    code="STR-102",
                )
            unknown = sorted(set(rule.classes) - set(label.classes))
            if unknown:
                raise ConfigError(
                    f"labels.{label_name}.classes names {', '.join(unknown)}, which the study"
                    " does not have.",
                    fix=f"Use names among {', '.join(label.classes)}.",
                    code="STR-102",
                )


def is_match(path: Path, root: Path, pattern: str) -> bool:
    """Whether ``path`` fits a glob relative to ``root``; false for a path outside of it."""
    if not path.is_relative_to(root):
        return False
    return _fits(path.relative_to(root).parts, tuple(p for p in pattern.split("/") if p != "."))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
