"""``localise``: a coarse teacher finds the heart, so that later stages look only there.

FedKD crops to a heart mask from another tool at 6 mm; here the tool is a ``teach`` stage with a
grid of its own. Only the box is kept, in the site's own working copies.
"""

from dataclasses import replace

import numpy as np
from typing_extensions import override

from stillroom.client.recipes.cohort import all_cases, no_case
from stillroom.client.recipes.context import Recipe, RecipeContext, RoundResult
from stillroom.client.recipes.models import network
from stillroom.client.training.cases import WorkingSet
from stillroom.client.training.device import seeded
from stillroom.client.training.inference import predict
from stillroom.client.training.targets import Grid, Point, decode_mask, largest_component
from stillroom.common.errors import ResourceError


class Localise(Recipe):
    """Writes the heart's box into cases that have none."""

    @override
    def run(self, context: RecipeContext) -> RoundResult:
        """Look for the heart in every case without a box, at held-out sites too."""
        infos = all_cases(context.store)
        if not infos:
            raise no_case("no case")
        study, (teacher, *_) = context.study, context.stage.teachers
        stage = study.stage_named(teacher)
        weights, _ = context.teachers[teacher]
        device = context.choose_device()
        module = network(study, stage, weights, device)
        cases = WorkingSet(context.store, study, spacing_mm=study.spacing_of(stage), whole=True)
        located = not_located = 0
        with seeded(device, context.round_seed):
            for index, info in enumerate(infos):
                if context.should_stop():
                    raise ResourceError(
                        "This site stopped the round.", fix="Start it again.", code="STR-502"
                    )
                context.progress(index / len(infos))
                if info.roi_mm is not None:
                    continue
                case = cases.case(info.id)
                probability = predict(module, case, volume=study.volume, device=device)
                box = box_of(decode_mask(probability[stage.label or ""]) > 0, case.grid)
                located, not_located = located + (box is not None), not_located + (box is None)
                if box is not None:
                    context.store.write_info(replace(info, roi_mm=box))
        context.progress(1.0)
        return RoundResult(None, {}, {"locate.located": located, "locate.not_located": not_located})


def box_of(mask: np.ndarray, grid: Grid) -> tuple[Point, Point] | None:
    """Corners (LPS mm) of the largest component of ``mask`` (D, H, W); None when it is empty.

    The corners are the outer faces of its voxels, not their centres.
    """
    component = largest_component(mask)
    if component is None:
        return None
    index = np.argwhere(component)
    return grid.point_at(index.min(0) - 0.5), grid.point_at(index.max(0) + 0.5)
