"""Arms of the gates V1 to V3: a prompt and a probe against full fine-tuning (arXiv 2405.07411).

One backbone per seed and left-out hospital, trained on another label at the other hospitals; every
arm then learns the new label from the same few patients, in the same order, with the same
optimiser and steps; whole networks have one rate, prompts and probes another. V1 is scored on other
patients of the same hospitals, V2 on the hospital that neither the backbone nor an arm has seen.
Pure functions: the same arguments, the same numbers.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from stillroom.client.recipes.prompt import Step
from stillroom.client.training.device import choose_device
from stillroom.client.training.loop import Losses, supervised_losses
from stillroom.client.training.losses import Target
from stillroom.client.training.sampling import Batch, normalise
from stillroom.common.nn.prepare import module_of
from stillroom.common.nn.prompt import PromptAdapter, Prompted
from stillroom.common.nn.weights import export, initial
from stillroom.common.study import Study
from stillroom.deploy.phantom.sections import Sections, sections

SITES = ("north", "river", "harbour", "summit")
CLASSES = {"chambers": ("LV", "RV", "LA", "RA", "MYO"), "vessels": ("AO", "PA")}
OLD, NEW = "chambers", "vessels"
SIDE = 64
PROMPTS: dict[str, dict[str, Any]] = {
    "MoVL": {},
    "MoVL, no discrepancy": {"discrepancy": "none"},
    "MoVL, probe first": {"probe_rounds": 1},
    "prompt, random map": {"mapping": "random", "discrepancy": "none"},
    "prompt, frequency map": {"mapping": "frequency", "discrepancy": "none"},
}
ARMS = ("full fine-tuning", "probe alone", *PROMPTS)


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes that all arms share; fixed before any seed is run.

    Attributes:
        known: Patients per hospital that the backbone learned the old label from.
        few: Patients per hospital that the new label is learned from.
        tested: Patients per hospital that nobody learned from.
        each: Slices per patient.
        backbone_steps, steps: Optimiser steps of the backbone and of every arm.
        turns: The arm's steps are done in so many turns; a frequency map is made anew in each.
        batch: Slices per step.
        learning_rate: Of AdamW, for whole networks.
        small_rate: Of AdamW, for prompts and probes, which the code this line of work builds on gives
            0.01 to 0.1: at 2e-3 a probe called everything background after 160 steps (one pilot
            seed, 901, not to be reported).
        pad: Of the prompt, in pixels.
        channels: Of the backbone.
    """

    known: int = 8
    few: int = 3
    tested: int = 6
    each: int = 6
    backbone_steps: int = 400
    steps: int = 240
    turns: int = 4
    batch: int = 8
    learning_rate: float = 2e-3
    small_rate: float = 2e-2
    pad: int = 8
    channels: tuple[int, ...] = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Data:
    """What one seed learns from and is scored on."""

    known: Sections
    few: Sections
    seen: Sections
    unseen: Sections


def run(
    seed: int, left_out: str, plan: Plan = Plan(), only: tuple[str, ...] = ARMS
) -> dict[str, Any]:
    """Every arm on one seed with one hospital left out.

    Returns:
        Arm -> ``seen`` and ``unseen``, mean Dice of the new label; ``patients``, each patient's, by the same
        names; ``bytes``, what a site would send in one round.
    """
    data = gather(seed, left_out, plan)
    backbone = initial(lambda: module_of(study_of(plan), study_of(plan).stage_named("old")), seed)
    learn(
        backbone.parameters(),
        lambda batch: _supervised(backbone, batch, plan),
        data.known,
        plan,
        seed=seed,
        label=OLD,
        steps=plan.backbone_steps,
    )
    backbone.eval()
    results = {}
    for name in only:
        network, sent = arm(name, copy.deepcopy(backbone), data.few, plan, seed=seed)
        scores = {key: dice(network, getattr(data, key)) for key in ("seen", "unseen")}
        means = {key: float(np.mean(values)) for key, values in scores.items()}
        results[name] = {**means, "patients": scores, "bytes": sent}
    return results


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """What the gates compare, of one seed and left-out hospital."""

    def over(key: str, a: str, b: str) -> float:
        return float(results[a][key] / max(results[b][key], 1e-6))

    return {
        "V1": over("seen", "MoVL", "full fine-tuning"),
        "V2": over("unseen", "MoVL", "full fine-tuning"),
        "V3 seen": over("seen", "MoVL", "probe alone"),
        "V3 unseen": over("unseen", "MoVL", "probe alone"),
        "bytes": results["MoVL"]["bytes"] / results["full fine-tuning"]["bytes"],
    }


def arm(
    name: str, backbone: nn.Module, data: Sections, plan: Plan, *, seed: int
) -> tuple[nn.Module, int]:
    """What one arm learned, and the bytes of its exchanged tensors in 32 bits."""
    if name == "full fine-tuning":
        study = study_of(plan, full=True)
        whole = initial(lambda: module_of(study, study.stage_named("new")), seed)
        # All of the backbone but its last layer, which has other classes.
        theirs, own = backbone.state_dict(), whole.state_dict()
        same = {n: v for n, v in theirs.items() if own[n].shape == v.shape}
        whole.load_state_dict({**own, **same})
        step: Callable[[Batch], Losses] = lambda batch: _supervised(whole, batch, plan)  # noqa: E731
        learn(whole.parameters(), step, data, plan, seed=seed, label=NEW, steps=plan.steps)
        return whole.eval(), _nbytes(whole)
    options = PROMPTS.get(name, {"discrepancy": "none"})
    study = study_of(plan, prompt={"pad": plan.pad, **options})
    adapter = initial(lambda: module_of(study, study.stage_named("new")), seed)
    if not isinstance(adapter, PromptAdapter) or adapter.prompt is None:
        raise TypeError("a shared prompt was asked for")
    backbone.requires_grad_(requires_grad=False)
    whole_of = Prompted(backbone, adapter, adapter.prompt)
    _take_turns(name, whole_of, data, plan, study, seed)
    alone = name == "probe alone"
    return whole_of.eval(), _nbytes(adapter.heads if alone else adapter)


def _take_turns(
    name: str, whole: Prompted, data: Sections, plan: Plan, study: Study, seed: int
) -> None:
    """An arm's steps, in turns as rounds would have them; one optimiser throughout, as in all arms."""
    device, adapter = choose_device("cpu", smallest_side=SIDE), whole.adapter
    done = 0
    per_turn = plan.steps // plan.turns
    first = adapter.options.probe_rounds

    def step(batch: Batch) -> Losses:
        nonlocal done
        turn, start = divmod(done, per_turn)
        if start == 0 and adapter.mapping is not None:
            adapter.mapping.begin()
        done += 1
        plain = name == "probe alone" or turn < first
        losses = Step(whole, study, device, plain=plain)(batch)
        weight = adapter.options.discrepancy_weight
        return {n: loss * (weight if n == "discrepancy" else 1.0) for n, loss in losses.items()}

    whole.train()
    learn(
        adapter.parameters(), step, data, plan, seed=seed, label=NEW, steps=plan.steps, small=True
    )


def learn(
    parameters: Any,
    step: Callable[[Batch], Losses],
    data: Sections,
    plan: Plan,
    *,
    seed: int,
    label: str,
    steps: int,
    small: bool = False,
) -> None:
    """The same optimiser, batches and order for every arm."""
    learnt, rate = list(parameters), plan.small_rate if small else plan.learning_rate
    optimiser = torch.optim.AdamW(learnt, lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng([seed, 9])
    for _ in range(steps):
        loss = torch.stack(list(step(draw(data, label, plan.batch, rng)).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 5.0)
        optimiser.step()
        schedule.step()


def gather(seed: int, left_out: str, plan: Plan) -> Data:
    """Patients of one seed: no patient in two parts, and none of the left-out hospital in the first three."""
    parts: dict[str, list[Sections]] = {"known": [], "few": [], "seen": []}
    for number, site in enumerate(one for one in SITES if one != left_out):
        at = 100_000 * (seed + 1) + 1_000 * number
        for part, count in (("known", plan.known), ("few", plan.few), ("seen", plan.tested)):
            parts[part].append(sections(range(at, at + count), site, each=plan.each, size=SIDE))
            at += count
    at = 100_000 * (seed + 1) + 90_000
    unseen = sections(range(at, at + plan.tested), left_out, each=plan.each, size=SIDE)
    return Data(**{n: _joined(found) for n, found in parts.items()}, unseen=unseen)


def _joined(parts: list[Sections]) -> Sections:
    names = ("hu", "chambers", "vessels", "patients")
    return Sections(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def draw(data: Sections, label: str, count: int, rng: np.random.Generator) -> Batch:
    """Random slices, shifted by up to 4 pixels and in another contrast."""
    picks = rng.integers(0, len(data.hu), count)
    images, maps = [], []
    for pick in picks:
        shift = tuple(int(v) for v in rng.integers(-4, 5, 2))
        x = normalise(torch.from_numpy(np.roll(data.hu[pick], shift, (0, 1))), (-200, 600))
        images.append(x * float(np.exp(rng.normal(0, 0.1))) + float(rng.normal(0, 0.05)))
        maps.append(torch.from_numpy(np.roll(getattr(data, label)[pick], shift, (0, 1))).long())
    target = Target(torch.arange(count), torch.stack(maps)[:, None])
    return Batch(torch.stack(images)[:, None, None], {label: target}, tuple(map(str, picks)))


def dice(network: nn.Module, test: Sections) -> list[float]:
    """Each patient's mean Dice over the new label's classes that it shows, slices together."""
    x = normalise(torch.from_numpy(test.hu), (-200, 600))[:, None, None]
    with torch.no_grad():
        found = torch.cat([network(part)[NEW].argmax(1)[:, 0] for part in x.split(32)]).numpy()
    each = []
    for patient in np.unique(test.patients):
        here = test.patients == patient
        ours, truth = found[here], getattr(test, NEW)[here]
        there = [k for k in range(1, 1 + len(CLASSES[NEW])) if (truth == k).any()]
        pairs = [(ours == k, truth == k) for k in there]
        if pairs:
            each.append(float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])))
    return each


def study_of(plan: Plan, *, prompt: dict[str, Any] | None = None, full: bool = False) -> Study:
    """The two stages as a study has them: the backbone, and the new label on it or instead of it."""
    new: dict[str, Any] = {"name": "new", "recipe": "teach", "label": NEW}
    if not full:
        options = {"how": "prompt", "prompt": prompt or {}}
        new |= {"recipe": "adapt", "backbone": "old", "rounds": plan.turns, "options": options}
    return Study.parse(
        {
            "study": {"name": "arms"},
            "volume": {"spacing_mm": [3, 3, 3], "patch": [SIDE, SIDE, 1]},
            "label": {n: {"kind": "mask", "classes": list(c)} for n, c in CLASSES.items()},
            "model": {"teacher": {"arch": "slice-unet", "channels": list(plan.channels)}},
            "stage": [{"name": "old", "recipe": "teach", "label": OLD}, new],
        }
    )


def _supervised(network: nn.Module, batch: Batch, plan: Plan) -> Losses:
    device = choose_device("cpu", smallest_side=SIDE)
    return supervised_losses(network(batch.x), batch, study_of(plan), device)


def _nbytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in export(module).values())
