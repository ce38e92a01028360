"""FedKD for cardiac CT, the spine: teach, localise, label what nobody labelled, distil.

Tölle et al., arXiv 2407.07557; npj Digital Medicine 8:88, 2025.
"""

from typing import TYPE_CHECKING

from stillroom.common.recipes.contrast import (
    TERMS,
    DistilOptions,
    TeachOptions,
    check_contrast,
    check_reconstruction,
)
from stillroom.common.recipes.declaration import Declaration, Uses

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study


def _teacher(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.teacher import build_teacher

    restored = stage.chosen(TeachOptions).reconstruction > 0
    return build_teacher(study, stage.label or "", reconstruction=restored)


def _student(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.student import build_student

    del stage
    return build_student(study)


TEACH = Declaration(
    name="teach",
    summary="a CNN learns one label type at the sites that drew it",
    source="FedKD, arXiv 2407.07557, step A",
    purpose=lambda stage: f"a first network learns {stage.label}",
    build=_teacher,
    produces="teacher",
    label="one",
    models=("teacher",),
    start=frozenset({"teacher"}),
    options=TeachOptions,
    terms=("reconstruction",),
    side_by_side=True,
    check=check_reconstruction,
)
LOCALISE = Declaration(
    name="localise",
    summary="a coarse teacher finds the heart, so that later stages look only there",
    source="FedKD, arXiv 2407.07557, preprocessing; the network is ours",
    purpose=lambda _: "finds the heart on this hospital's scans",
    teachers=Uses(frozenset({"teacher"}), fewest=1),
    everywhere=True,
)
PSEUDOLABEL = Declaration(
    name="pseudolabel",
    summary="teachers label, on site, what nobody labelled",
    source="FedKD, arXiv 2407.07557, step B",
    purpose=lambda _: "the first networks label scans that nobody labelled",
    teachers=Uses(frozenset({"teacher"}), fewest=1),
)
DISTIL = Declaration(
    name="distil",
    summary="one transformer student learns every label type, true or pseudo, at every site",
    source="FedKD, arXiv 2407.07557, step C; with teachers also arXiv 2406.03173",
    purpose=lambda _: "one network learns everything",
    build=_student,
    produces="student",
    models=("student",),
    start=frozenset({"student", "encoder"}),
    teachers=Uses(frozenset({"teacher"})),
    options=DistilOptions,
    terms=TERMS,
    check=check_contrast,
)
