"""``pretrain_diffusion``: what slices look like, learned from all of them without a label.

Huang et al., arXiv 2402.15216.
"""

from typing import TYPE_CHECKING

from stillroom.common.recipes.declaration import Declaration

if TYPE_CHECKING:
    from torch import nn

    from stillroom.common.stage import Stage
    from stillroom.common.study import Study

TERM = "diffusion"
"""Its one loss."""


def _build(study: "Study", stage: "Stage") -> "nn.Module":
    from stillroom.common.nn.denoiser import build_denoiser

    del stage
    return build_denoiser(study)


PRETRAIN_DIFFUSION = Declaration(
    name="pretrain_diffusion",
    summary="a diffusion model learns from every slice of a site, without a label",
    source="label-efficient diffusion, arXiv 2402.15216, pretraining",
    purpose=lambda _: (
        "a generative network learns what this hospital's slices look like; "
        "it could make new slices that resemble them"
    ),
    build=_build,
    produces="denoiser",
    models=("denoiser",),
    start=frozenset({"denoiser"}),
    terms=(TERM,),
    scored=False,
)
