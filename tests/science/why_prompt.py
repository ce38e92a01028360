"""Why a prompt and a probe stay below full fine-tuning (V1, V2): one thing changed at a time.

The arms of ``arms_prompt`` on one hospital left out, with the backbone's training, the backbone's
task, the number of labels or the probe changed, and all else as reported. Nothing here is a setting that
the product or the reported arms take over.
"""

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

sys.path.insert(0, str(Path(__file__).parent))

import arms_prompt as prompt  # beside this file, which is no package

from stillroom.client.recipes.prompt import Step
from stillroom.client.training.device import choose_device
from stillroom.client.training.loop import Losses
from stillroom.client.training.sampling import Batch
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.prompt import PromptAdapter, Prompted
from stillroom.common.nn.weights import initial
from stillroom.common.study import Study
from stillroom.deploy.phantom.sections import Sections

LEFT_OUT = "summit"
FULL = "full fine-tuning"
BOTH = (*prompt.CLASSES[prompt.OLD], *prompt.CLASSES[prompt.NEW])
"""Classes of a backbone that has seen the new label already."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What differs from the reported arms.

    Attributes:
        steps: Of the backbone's training, as a multiple of what is reported.
        knows: The backbone learned the new label as well, from its own patients.
        few: Patients per hospital that the new label is learned from.
        probe: ``linear``; ``two layers``; ``all maps``, linear on the decoder's, the encoder's and the
            deepest map together.
    """

    steps: float = 1.0
    knows: bool = False
    few: int | None = None
    probe: str = "linear"


AS_REPORTED = "as reported"
SETTINGS = {
    AS_REPORTED: Setting(),
    "backbone trained twice as long": Setting(steps=2.0),
    "backbone has learned the new label too": Setting(knows=True),
    "1 labelled patient per hospital": Setting(few=1),
    "12 labelled patients per hospital": Setting(few=12),
    "probe of two layers": Setting(probe="two layers"),
    "linear probe on all maps": Setting(probe="all maps"),
}


class OnAllMaps(PromptAdapter):
    """A probe that sees what the decoder's last map no longer holds."""

    @override
    def read(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """All maps at the resolution of the last."""
        network: Any = backbone
        maps = network.features(x)
        size = maps.decoder.shape[2:]
        coarse = [
            interpolate(one, size, mode="trilinear") for one in (maps.encoder, maps.bottleneck)
        ]
        return torch.cat([maps.decoder, *coarse], 1)


def run(seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Setting -> its figures on one seed."""
    plan = prompt.Plan(1, 1, 1, 2, 3, 4, 2, 2) if quick else prompt.Plan()
    left_out = LEFT_OUT if seed >= 10 else "river"
    backbones: dict[tuple[float, bool], nn.Module] = {}
    wholes: dict[tuple[float, bool, int], nn.Module] = {}
    rows = {}
    for name, setting in SETTINGS.items():
        few = plan.few if setting.few is None else (min(setting.few, 2) if quick else setting.few)
        here = replace(plan, few=few)
        data = prompt.gather(seed, left_out, here)
        kind = (setting.steps, setting.knows)
        if kind not in backbones:
            backbones[kind] = backbone_of(data.known, plan, setting, seed)
        backbone = backbones[kind]
        if (*kind, few) not in wholes:
            found, _ = prompt.arm(FULL, copy.deepcopy(backbone), data.few, here, seed=seed)
            wholes[*kind, few] = found
        movl = prompted(copy.deepcopy(backbone), data.few, here, setting, seed)
        rows[name] = figures(wholes[*kind, few], movl, data)
    return rows


def figures(whole: nn.Module, movl: nn.Module, data: prompt.Data) -> dict[str, float]:
    """Dice of both at both places, and the ratios that the gates are about."""
    places = {"seen": data.seen, "unseen": data.unseen}
    full = {place: float(np.mean(prompt.dice(whole, test))) for place, test in places.items()}
    ours = {place: float(np.mean(prompt.dice(movl, test))) for place, test in places.items()}
    return {
        "full, seen": full["seen"],
        "MoVL, seen": ours["seen"],
        "full, unseen": full["unseen"],
        "MoVL, unseen": ours["unseen"],
        "ratio seen": ours["seen"] / max(full["seen"], 1e-6),
        "ratio unseen": ours["unseen"] / max(full["unseen"], 1e-6),
        "full keeps": full["unseen"] / max(full["seen"], 1e-6),
        "MoVL keeps": ours["unseen"] / max(ours["seen"], 1e-6),
    }


def backbone_of(known: Sections, plan: prompt.Plan, setting: Setting, seed: int) -> nn.Module:
    """A network for slices, trained on the old label, or on both as one."""
    label = "both" if setting.knows else prompt.OLD
    study = study_of(plan, label)
    network = initial(lambda: module_of(study, study.stage_named("old")), seed)
    data = joint(known) if setting.knows else known
    device = choose_device("cpu", smallest_side=prompt.SIDE)

    def step(batch: Batch) -> Losses:
        if setting.knows:
            batch = replace(batch, targets={"both": batch.targets[prompt.OLD]})
        return prompt.supervised_losses(network(batch.x), batch, study, device)

    steps = max(round(plan.backbone_steps * setting.steps), 1)
    prompt.learn(network.parameters(), step, data, plan, seed=seed, label=prompt.OLD, steps=steps)
    return network.eval()


def joint(data: Sections) -> Sections:
    """The vessels' classes after the chambers', in the chambers' place."""
    shift = len(prompt.CLASSES[prompt.OLD])
    both = np.where(data.vessels > 0, data.vessels + shift, data.chambers)
    return replace(data, chambers=both.astype(data.chambers.dtype))


def prompted(
    backbone: nn.Module, data: Sections, plan: prompt.Plan, setting: Setting, seed: int
) -> nn.Module:
    """Prompt and probe on a frozen backbone, trained as the arm ``MoVL`` is."""
    label = "both" if setting.knows else prompt.OLD
    study = study_of(plan, label)
    adapter = initial(lambda: adapter_of(study, backbone, setting), seed)
    if adapter.prompt is None:
        raise TypeError("a shared prompt was asked for")
    backbone.requires_grad_(requires_grad=False)
    whole = Prompted(backbone, adapter, adapter.prompt)
    once = Step(whole, study, choose_device("cpu", smallest_side=prompt.SIDE), plain=False)
    weights = {"discrepancy": adapter.options.discrepancy_weight}

    def step(batch: Batch) -> Losses:
        return {name: loss * weights.get(name, 1.0) for name, loss in once(batch).items()}

    whole.train()
    prompt.learn(
        adapter.parameters(), step, data, plan,
        seed=seed, label=prompt.NEW, steps=plan.steps, small=True,
    )  # fmt: skip
    return whole.eval()


def adapter_of(study: Study, backbone: Any, setting: Setting) -> PromptAdapter:
    """The product's adapter; for two of the settings with another probe in its place."""
    adapter = module_of(study, study.stage_named("new"))
    if not isinstance(adapter, PromptAdapter):
        raise TypeError("a prompt was asked for")
    outputs, width = 1 + len(prompt.CLASSES[prompt.NEW]), backbone.widths["decoder"]
    if setting.probe == "two layers":
        hidden = 4 * width
        layers = nn.Conv3d(width, hidden, 1), nn.ReLU(), nn.Conv3d(hidden, outputs, 1)
        adapter.heads[prompt.NEW] = nn.Sequential(*layers)
    elif setting.probe == "all maps":
        adapter.heads[prompt.NEW] = nn.Conv3d(sum(backbone.widths.values()), outputs, 1)
        adapter.__class__ = OnAllMaps
    return adapter


def study_of(plan: prompt.Plan, label: str) -> Study:
    """The reported arms' study, its backbone with the classes of ``label``."""
    value = prompt.study_of(plan, prompt={"pad": plan.pad}).model_dump(
        mode="json", exclude_defaults=True
    )
    value["label"]["both"] = {"kind": "mask", "classes": list(BOTH)}
    value["stage"][0]["label"] = label
    return Study.parse(value)
