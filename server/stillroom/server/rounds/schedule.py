"""The order of a study's stages: what may run side by side. Pure."""

from stillroom.common.study import Stage, Study


def waves(study: Study) -> list[tuple[Stage, ...]]:
    """Group consecutive stages that need nothing of each other.

    Teachers of different labels are trained by different sites; running those stages together
    keeps every hospital busy instead of one at a time. ``localise`` and ``pseudolabel`` change
    what later stages see, and ``distil`` depends on them, so each of those stands alone; a recipe
    declares whether it may have company.
    """
    result: list[tuple[Stage, ...]] = []
    for stage in study.stage:
        beside = result[-1] if result else ()
        needed = set(stage.inputs) & {other.name for other in beside}
        if beside and not needed and all(one.declared.side_by_side for one in (*beside, stage)):
            result[-1] = (*beside, stage)
        else:
            result.append((stage,))
    return result


def exchanges_weights(stage: Stage) -> bool:
    """True when the stage's updates carry tensors."""
    return stage.exchanges
