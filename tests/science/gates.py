"""The claims of five papers, and what our implementation has to reach to hold them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from verdicts import Gate  # beside this file, which is no package


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        name: As the page calls it.
        family: The arms that it is read from.
        says: What is claimed, in one line.
        published: What the paper reports, or that it reports none.
        gates: All have to hold; none when figures are reported without a bound.
        beside: Further ratios that are printed with it and decide nothing.
        aim: What we hoped for beyond the gate.
        areas: Ratio -> the two arms whose areas under the curve it compares.
    """

    name: str
    family: str
    says: str
    published: str
    gates: tuple[Gate, ...] = ()
    beside: tuple[str, ...] = ()
    aim: str = ""
    areas: Mapping[str, tuple[str, str]] = field(default_factory=dict)


POINTS = "F4 points, pooled over federated"
"""Of the students' errors at the unseen hospital; the page makes it of the scores."""
KEPT = "V kept at the unseen hospital, MoVL over full"
"""Of each arm its unseen over its seen score; the page makes it of the scores."""
SCANS = 48
"""Whose classes the areas of ``context`` are about, half of either."""

FAMILIES = {
    "spine": "FedKD (arXiv 2407.07557): teachers, pseudo-labels, one student",
    "contrast": "Multi-scale contrastive distillation (arXiv 2406.03173)",
    "context": "Masked context modelling with distillation (arXiv 2403.05325)",
    "diffusion": "Few labels on a diffusion model (arXiv 2402.15216)",
    "prompt": "Visual prompt and linear probe (arXiv 2405.07411)",
}
"""In the order in which they run within a seed."""

CLAIMS = (
    Claim(
        "F1",
        "spine",
        "The student makes smaller point errors at an unseen hospital than one taught with true "
        "labels alone",
        ".82 (hinge points), .70 (septum)",
        (Gate("F1", "<", 1.0),),
        ("F over CNN",),
        "at most .85",
    ),
    Claim(
        "F2",
        "spine",
        "The student is on par with its CNN teacher there",
        ".98 (hinge points), .93 (septum)",
        (Gate("F2", "<=", 1.10),),
    ),
    Claim(
        "F3",
        "spine",
        "A CNN taught at all hospitals beats the mean of those taught at one",
        ".89 (hinge points), .65 (septum); worse for calcification",
        (Gate("F3", "<", 1.0),),
    ),
    Claim(
        "F4",
        "spine",
        "The federated student reaches the Dice of one taught on all scans in one place",
        "not claimed; our own",
        (Gate("F4", ">=", 0.95),),
        (POINTS,),
    ),
    Claim(
        "F5",
        "spine",
        "A last layer for a new structure does better on the frozen student than on a frozen CNN, "
        "the better of two",
        "direction only",
        (Gate("F5", ">", 1.0),),
    ),
    Claim(
        "M1",
        "contrast",
        "A student is better with its teacher's maps than without, both of two sizes",
        "1.080 and 1.031, with other optimisers and batches",
        (Gate("M1 S1", ">", 1.0), Gate("M1 S2", ">", 1.0)),
    ),
    Claim(
        "M2",
        "contrast",
        "With them it comes to one four times its size without",
        "1.003",
        (Gate("M2", ">=", 0.98),),
    ),
    Claim(
        "M3",
        "contrast",
        "The encoder's maps are the best single scale, and contrasting beats matching",
        "direction only",
        (Gate("M3 encoder over the next", ">", 1.0), Gate("M3 InfoNCE over MSE", ">", 1.0)),
        ("M3 images over cells",),
    ),
    Claim(
        "C1",
        "context",
        "One epoch of it makes a frozen extractor classify bags better than before",
        "direction only",
        (Gate("C1", ">", 1.0),),
        ("C adapted over scratch",),
        areas={"C1": ("adapted", "unadapted")},
    ),
    Claim(
        "C2",
        "context",
        "It classifies them about as well as its larger teacher",
        '"can exceed"',
        (Gate("C2", ">=", 0.97),),
        areas={"C2": ("adapted", "teacher")},
    ),
    Claim(
        "D1",
        "diffusion",
        "Pretraining helps with few labels, and the less the more labels there are",
        "direction only",
        (Gate("D1 4 slices", ">", 1.0), Gate("D1 1 %", ">", 1.0), Gate("D1 narrows", ">", 0.0)),
        ("D1 10 %", "D1 shrinks"),
    ),
    Claim(
        "D2",
        "diffusion",
        "Label efficiency",
        ".911 (1 % / 10 %), .660 (4 slices / 10 %)",
        beside=("D2 1 % / 10 %", "D2 few / 10 %"),
    ),
    Claim(
        "D3",
        "diffusion",
        "The timestep matters: the best over the worst",
        "direction only",
        beside=("D3 gain",),
    ),
    Claim(
        "V1",
        "prompt",
        "Prompt and probe come to full fine-tuning at the hospitals they learned at",
        ".9976",
        (Gate("V1", ">=", 0.97),),
    ),
    Claim(
        "V2",
        "prompt",
        "They beat it at the hospital left out",
        "1.061",
        (Gate("V2", ">", 1.0),),
        (KEPT,),
    ),
    Claim(
        "V3",
        "prompt",
        "The prompt adds to the probe",
        "direction only",
        (Gate("V3 seen", ">=", 1.0),),
        ("V3 unseen", "V bytes"),
    ),
)
