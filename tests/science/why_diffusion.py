"""Why pretraining's gain does not narrow with labels (D1), and why the linear layer finds nothing.

The arms of ``arms_diffusion`` on the same slices and the same denoiser: with four times the steps, and
the linear layer with ten times the rate. All arms have one rate and one number of steps, so
with ten times the slices each is seen a tenth as often.
"""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import arms_diffusion as diffusion  # beside this file, which is no package

from stillroom.client.training.device import choose_device
from stillroom.common.nn.denoiser import Denoiser
from stillroom.common.nn.weights import initial

LONGER, FASTER = 4, 10


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """What learns, from how many labels and how -> Dice pretrained and from scratch, and their ratio."""
    small = replace(diffusion.QUICK, pool=4, pretrain_steps=10, steps=5)
    plan = small if quick else diffusion.Plan()
    device, data = choose_device("cpu"), diffusion.gather(seed, plan)
    fresh = initial(lambda: Denoiser(plan.channels), seed)
    seen, _ = diffusion.pretrained(copy.deepcopy(fresh), data.pool, plan, seed=seed, device=device)
    backbones = {"pretrained": seen, "scratch": fresh}

    def compare(ours: str, theirs: str, k: str, here: diffusion.Plan) -> dict[str, float]:
        chosen = diffusion.labelled(data.pool, plan.labelled[k], seed)
        dice = []
        for arm in (ours, theirs):
            network, _ = diffusion.learned(arm, backbones, chosen, here, seed=seed, device=device)
            dice.append(float(np.mean(diffusion.dice(network, data.test, device))))
        return {"pretrained": dice[0], "scratch": dice[1], "ratio": dice[0] / max(dice[1], 1e-6)}

    longer = replace(plan, steps=LONGER * plan.steps)
    faster = replace(plan, rate=FASTER * plan.rate)
    whole, layer = (
        ("decoder, pretrained", "all, scratch"),
        ("linear, pretrained", "linear, scratch"),
    )
    return {
        "decoder, 1 %, as reported": compare(*whole, "1 %", plan),
        "decoder, 10 %, as reported": compare(*whole, "10 %", plan),
        "decoder, 1 %, 4 times the steps": compare(*whole, "1 %", longer),
        "decoder, 10 %, 4 times the steps": compare(*whole, "10 %", longer),
        "linear, 10 %, as reported": compare(*layer, "10 %", plan),
        "linear, 10 %, 10 times the rate": compare(*layer, "10 %", faster),
    }
