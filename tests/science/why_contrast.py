"""Why a student is not better with its teacher's maps (M1): one thing changed at a time.

The small student of ``arms_contrast`` on the same patients, teacher, order and optimiser. The published
code softens outputs of one channel, whose divergence is 0 whatever the networks say; what was
measured there is the contrast of three scales without it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import arms_contrast as contrast  # beside this file, which is no package

from stillroom.common.nn.pocket import PocketUnet, SliceTeacher
from stillroom.common.nn.weights import initial
from stillroom.common.recipes.contrast import DistilOptions
from stillroom.deploy.phantom.sections import sections

LONGER = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """What differs from the reported arms.

    Attributes:
        options: Of the teacher's terms; None for labels alone.
        longer: Steps, as a multiple of what is reported.
    """

    options: DistilOptions | None
    longer: int = 1


def settings() -> dict[str, Setting]:
    """Name -> what differs."""
    known = DistilOptions()

    def softened(weight: float, temperature: float = known.temperature) -> Setting:
        weights = known.weights.model_copy(update={"maps": weight})
        changed = {"weights": weights, "temperature": temperature}
        return Setting(known.model_copy(update=changed))

    return {
        "labels alone": Setting(None),
        "teacher's maps, as reported": Setting(known),
        "without softened outputs": softened(0.0),
        "softened outputs at a tenth of their weight": softened(known.weights.maps / 10),
        "softened outputs at temperature 1": softened(known.weights.maps, 1.0),
        "labels alone, twice as long": Setting(None, LONGER),
        "teacher's maps, twice as long": Setting(known, LONGER),
    }


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Setting -> Dice and its ratio to labels alone for as long, on one seed."""
    plan = contrast.Plan(scanner="river")
    if quick:
        plan = contrast.Plan(4, 2, 2, 4, 3, scanner="river", teacher=(8, 16, 32, 32))
    # Patients and teacher as ``arms_contrast.run`` has them.
    first = 10_000 * (seed + 1)
    learned = range(first, first + plan.patients)
    data = sections(learned, plan.scanner, each=plan.each, size=contrast.SIDE)
    half = data.of(list(learned)[: plan.patients // 2])
    tested = range(first + 5_000, first + 5_000 + plan.tested)
    test = sections(tested, plan.scanner, each=plan.each, size=contrast.SIDE)
    outputs = 1 + len(contrast.CLASSES)
    teacher = initial(
        lambda: SliceTeacher(contrast.LABEL, outputs, in_channels=1, channels=plan.teacher), seed
    )
    contrast.learn(teacher, data, plan, seed=seed, steps=plan.teacher_steps)
    teacher.eval().requires_grad_(requires_grad=False)

    dice, alone = {}, {}
    for name, setting in settings().items():
        student = initial(lambda: PocketUnet(1, {contrast.LABEL: outputs}, contrast.S1), seed)
        steps = plan.steps * setting.longer
        contrast.learn(
            student, half, plan, seed=seed, steps=steps, teacher=teacher, extra=setting.options
        )
        dice[name] = float(contrast.score(student, test)["dice"])
        if setting.options is None:
            alone[setting.longer] = dice[name]
    return {
        name: {"Dice": dice[name], "ratio": dice[name] / max(alone[setting.longer], 1e-6)}
        for name, setting in settings().items()
    }
