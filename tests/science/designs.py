"""How each comparison was made, in words, with the numbers of the plans that were run.

Read when the page is written: it needs the arms, and they need torch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import arms_context as context  # beside this file, which is no package
import arms_contrast as contrast
import arms_diffusion as diffusion
import arms_prompt as prompt
import spine_hospitals as spine


def designs() -> dict[str, str]:
    """Family -> patients, arms, and what is equal in all of them."""
    return {
        "spine": _spine(spine.Plan()),
        "contrast": _contrast(contrast.Plan(scanner="river")),
        "context": _context(context.FULL),
        "diffusion": _diffusion(diffusion.Plan()),
        "prompt": _prompt(prompt.Plan()),
    }


def _spine(plan: spine.Plan) -> str:
    owned = "; ".join(
        f"{site} {', '.join(f'{label} on {share:.0%}' for label, share in labels.items())}"
        for site, labels in spine.OWNED.items()
    )
    return (
        f"Three hospitals with {plan.labelled} labelled and {plan.unlabelled} unlabelled patients each "
        f"({owned}), in volumes of {spine.SIDE}³ voxels at {spine.SPACING_MM:g} mm. Scores are of "
        f"{plan.unseen} patients of a fourth hospital with a scanner that occurs nowhere else and "
        f"that nothing "
        f"was tuned on. Federated through the product's own recipes and its average per parameter "
        f"group, in every "
        f"arm: a head is averaged over the hospitals that trained it, in the arm with true labels "
        f"alone too. "
        f"Teachers {plan.teacher_rounds} rounds of {plan.teacher_steps} steps, students "
        f"{plan.student_rounds} of {plan.student_steps}, the same optimiser, rate, batch and "
        f"augmentation; the pooled "
        f"student sees the scans of all hospitals in every step. `CNN, pseudo-labels` has the student's "
        f"pseudo-labels and a teacher's network: what it gains over a teacher is not the transformer's. "
        f"A missed point counts as half the field of view. Calcium is smaller than these voxels and "
        f"is not measured."
    )


def _contrast(plan: contrast.Plan) -> str:
    return (
        f"Slices of {contrast.SIDE}² pixels, {plan.each} from each patient of one scanner, split by "
        f"patient: the "
        f"teacher learns from {plan.patients}, the students from half of them, and {plan.tested} "
        f"others are "
        f"scored. Every student has {plan.steps} steps of {plan.batch} slices in the same order, "
        f"one optimiser "
        f"and one rate; arms differ in the loss alone. One site: nothing is federated here."
    )


def _context(sizes: context.Sizes) -> str:
    return (
        f"Is there calcium in this scan? {sizes.trained} patients to learn from, {sizes.tested} "
        f"others to be scored "
        f"on, scanners in turn; {sizes.warmed} unlabelled ones for the one epoch and {sizes.taught} "
        f"with drawn "
        f"chambers for the teacher. Every arm trains the same pool and head for {sizes.bag_steps} "
        f"steps on a frozen "
        f"extractor, but for `scratch`, whose extractor learns with them. The paper's extractor "
        f"came from natural "
        f"images; ours starts from chance. With {sizes.tested} patients an AUC of 0.8 has a "
        f"standard error of about "
        f"{_error_of_area(0.8, sizes.tested / 2):.2f}: a single seed says little."
    )


def _diffusion(plan: diffusion.Plan) -> str:
    slices = plan.pool * plan.each * len(diffusion.SITES)
    counts = ", ".join(f"{name} ({k})" for name, k in plan.labelled.items())
    return (
        f"A denoiser learns from {slices} unlabelled slices of {plan.side}² pixels from "
        f"{len(diffusion.SITES)} "
        f"hospitals, {plan.pretrain_steps} steps of {plan.pretrain_batch}; every arm then learns "
        f"chambers from "
        f"the same few of these slices ({counts}), {plan.steps} steps of {plan.batch}, in the same "
        f"order, with "
        f"the same network, optimiser and rate. Scores are of {plan.tested} other patients per hospital. "
        f"`linear, scratch` is a layer on a random network: what it reaches is not the pretraining's. The "
        f"timesteps are compared on {plan.tuned} further patients per hospital."
    )


def _prompt(plan: prompt.Plan) -> str:
    return (
        f"One backbone learns chambers from {plan.known} patients of each of three hospitals "
        f"({plan.backbone_steps} steps); every arm then learns vessels from {plan.few} patients of each, "
        f"{plan.steps} steps of {plan.batch} slices in the same order with the same optimiser, and "
        f"is scored on "
        f"{plan.tested} others of each (seen) and of the fourth hospital (unseen). Each of the four "
        f"is left "
        f"out once, and a seed's ratio is the median of the four. Whole networks have the rate "
        f"{plan.learning_rate:g}, prompts and probes {plan.small_rate:g}, as the published code of "
        f"this line of work "
        f"has it; it was found on a development seed."
    )


def _error_of_area(area: float, each: float) -> float:
    """Standard error of an AUC with ``each`` cases of either class (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (each - 1) * (q1 - area**2 + q2 - area**2)
    return float((spread / each**2) ** 0.5)
