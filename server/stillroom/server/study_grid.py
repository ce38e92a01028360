"""Whether a stage can see what it is asked to learn: sizes of structures beside its voxels. Pure."""

from stillroom.common.labels import VoxelLabel
from stillroom.common.study import Study

LEAST_VOXELS = 2.0
"""Across a structure. With fewer it may lie between voxels: on the phantom at 4.5 mm, no network found
calcium of one voxel or less."""


def too_coarse(study: Study) -> list[str]:
    """A line for every stage and label whose smallest structure is under ``LEAST_VOXELS`` across.

    Points are as wide as their balls; of a mask only the study's author knows (``smallest_mm``).
    """
    found = []
    voxel_labels = study.voxel_labels()
    for stage in study.stage:
        coarsest = max(study.spacing_of(stage))
        for name in study.predicted_labels(stage):
            size = _size_mm(voxel_labels[name]) if name in voxel_labels else None
            if size is not None and size < LEAST_VOXELS * coarsest:
                found.append(
                    f"stage {stage.name} learns {name} on a grid of {coarsest:g} mm, but its smallest "
                    f"structures are {size:g} mm: {size / coarsest:.1f} voxels across. Give the stage or the "
                    f"study a spacing_mm of at most {size / LEAST_VOXELS:g}."
                )
    return found


def _size_mm(label: VoxelLabel) -> float | None:
    return 2 * label.radius_mm if label.kind == "points" else label.smallest_mm
