"""The order of a study's stages: what may run side by side. Pure."""

from stillroom.common.study import TRAINING_RECIPES, Stage, Study


def waves(study: Study) -> list[tuple[Stage, ...]]:
    """Group consecutive stages that need nothing of each other.

    Teachers of different labels are trained by different sites; running those stages together
    keeps every hospital busy instead of one at a time. ``localise`` and ``pseudolabel`` change
    what later stages see, and ``distil`` depends on them, so each of those stands alone.
    """
    result: list[tuple[Stage, ...]] = []
    for stage in study.stage:
        alone = stage.recipe != "teach"
        if result and not alone and all(other.recipe == "teach" for other in result[-1]):
            result[-1] = (*result[-1], stage)
        else:
            result.append((stage,))
    return result


def exchanges_weights(stage: Stage) -> bool:
    """True when the stage's updates carry tensors."""
    return stage.recipe in TRAINING_RECIPES
