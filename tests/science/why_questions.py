"""What the experiments behind claims that fail ask, and the section of the page that answers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Rows = Mapping[str, Mapping[str, float]]
"""Setting -> column -> figure, of one seed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason that a claim may fail for, and the two figures that would show it.

    Attributes:
        says: The reason.
        column: Of the table.
        higher, lower: Settings; were the reason right, the first would have more in this column.
        least: By how much at least.
        from_column: Column of ``lower``; the same one when left out.
    """

    says: str
    column: str
    higher: str
    lower: str
    least: float = 0.0
    from_column: str = ""

    def gaps(self, seeds: Sequence[Rows]) -> list[float]:
        """What the first has more than the second, of every seed."""
        other = self.from_column or self.column
        return [rows[self.higher][self.column] - rows[self.lower][other] for rows in seeds]


@dataclass(frozen=True, slots=True)
class Question:
    """One family of experiments.

    Attributes:
        family: ``why_<family>.py``.
        title: Heading.
        claims: That it is about.
        reads: How to read the table.
        reasons: In the order of the text.
    """

    family: str
    title: str
    claims: tuple[str, ...]
    reads: str
    reasons: tuple[Reason, ...] = ()


AS_REPORTED = "as reported"
LEAST = 0.02
"""A smaller difference of ratios counts for nothing."""

QUESTIONS = (
    Question(
        "prompt",
        "Why prompt and probe stay below full fine-tuning",
        ("V1", "V2"),
        "One hospital left out, one thing changed at a time, all else as in the arms above. `full` is "
        "full fine-tuning, Dice of the new label; `ratio` is MoVL over full fine-tuning in the same row; "
        "`keeps` is the score at the unseen hospital over that at the seen ones.",
        (
            Reason(
                "The frozen maps do not hold the new label: a backbone that has learned it before "
                "brings the ratio up",
                "ratio seen",
                "backbone has learned the new label too",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "The probe sees too little of the backbone: a linear probe on all of its maps does better",
                "ratio seen",
                "linear probe on all maps",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "A linear probe is too weak: one of two layers does better",
                "ratio seen",
                "probe of two layers",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "The backbone was trained too short: twice as long does better",
                "ratio seen",
                "backbone trained twice as long",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "The claim is about few labels: with a third of the labels the ratio is higher",
                "ratio seen",
                "1 labelled patient per hospital",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "Full fine-tuning loses more at the unseen hospital than prompt and probe do, as the "
                "paper says, and only its lead hides it",
                "MoVL keeps",
                AS_REPORTED,
                AS_REPORTED,
                LEAST,
                from_column="full keeps",
            ),
        ),
    ),
    Question(
        "contrast",
        "Why the small student is not better with its teacher's maps",
        ("M1", "M2"),
        "The small student on the patients of the arms above; `ratio` is to labels alone for as many steps.",
        (
            Reason(
                "The softened outputs do it, which the published code computes over one channel, where "
                "they are always 0: without them the student is better than with all terms",
                "ratio",
                "without softened outputs",
                "teacher's maps, as reported",
                LEAST,
            ),
            Reason(
                "They weigh too much, by the square of the temperature: at a tenth of their weight the "
                "student is better",
                "ratio",
                "softened outputs at a tenth of their weight",
                "teacher's maps, as reported",
                LEAST,
            ),
            Reason(
                "They are too soft: at temperature 1 the student is better",
                "ratio",
                "softened outputs at temperature 1",
                "teacher's maps, as reported",
                LEAST,
            ),
            Reason(
                "Too few steps for both losses: twice as long, the ratio is higher",
                "ratio",
                "teacher's maps, twice as long",
                "teacher's maps, as reported",
                LEAST,
            ),
            Reason(
                "What the paper measured, three contrasts without softened outputs, beats labels alone",
                "ratio",
                "without softened outputs",
                "labels alone",
            ),
        ),
    ),
    Question(
        "context",
        "Why the claims about bags are not decided by calcium, and what decides them",
        ("C1", "C2"),
        "The same stages and steps on another question, whose answer lies in many voxels: is the left "
        "ventricle dilated? Twice the test patients of the arms above.",
        (
            Reason(
                "Calcium is to be seen on this grid: the brightest voxel tells more than chance",
                "AUC",
                "calcium: the brightest voxel",
                "chance, in one of twenty draws",
            ),
            Reason(
                "The question was too hard, and not the extractors at fault: asked for a dilated "
                "ventricle, the teacher tells more than chance",
                "AUC",
                "dilated: teacher",
                "chance, in one of twenty draws",
            ),
            Reason(
                "C1 holds there: one epoch is better than none",
                "AUC",
                "dilated: student, 1 epoch",
                "dilated: student, untrained",
            ),
            Reason(
                "C2 holds there: after one epoch the student is not more than 3 % behind its teacher",
                "over the teacher",
                "dilated: student, 1 epoch",
                "dilated: teacher",
                -0.03,
            ),
            Reason(
                "One epoch is too short: eight do better",
                "AUC",
                "dilated: student, 8 epochs",
                "dilated: student, 1 epoch",
                LEAST,
            ),
            Reason(
                "What the teacher has over the student is its network and not its training: untrained, it "
                "does better than the untrained student",
                "AUC",
                "dilated: teacher, untrained",
                "dilated: student, untrained",
                LEAST,
            ),
        ),
    ),
    Question(
        "diffusion",
        "Why the gain of pretraining does not narrow, and why the linear layer finds nothing",
        ("D1",),
        "Dice of new patients, on the same slices and the same denoiser; `ratio` is pretrained over scratch.",
        (
            Reason(
                "Too few steps at 10 %, where each slice is seen a tenth as often: with four times "
                "as many the gain there is smaller",
                "ratio",
                "decoder, 10 %, as reported",
                "decoder, 10 %, 4 times the steps",
                LEAST,
            ),
            Reason(
                "With enough steps the gain narrows from 1 % to 10 %, as claimed",
                "ratio",
                "decoder, 1 %, 4 times the steps",
                "decoder, 10 %, 4 times the steps",
            ),
            Reason(
                "A single layer needs a higher rate than a network: at ten times the rate it finds more",
                "pretrained",
                "linear, 10 %, 10 times the rate",
                "linear, 10 %, as reported",
                LEAST,
            ),
            Reason(
                "What it finds then is the pretraining's: on a random network it finds less",
                "pretrained",
                "linear, 10 %, 10 times the rate",
                "linear, 10 %, 10 times the rate",
                LEAST,
                from_column="scratch",
            ),
        ),
    ),
    Question(
        "labels",
        "Why pseudo-labels hardly help points here",
        ("F1",),
        "A quarter of the labelled patients, as many scans in all, everything else as in the arms above; "
        "figures are of the unseen hospital. Asked after two seeds of the claim were known.",
        (
            Reason(
                "The claim is about few labels: with a quarter of them the student's points are nearer "
                "than those of true labels alone, by 0.2 mm or more",
                "true labels: error in mm",
                "2 labelled patients per hospital",
                "2 labelled patients per hospital",
                0.2,
                from_column="all labels: error in mm",
            ),
            Reason(
                "It holds for what one hospital alone has labelled: the chambers, of which the student "
                "finds more",
                "all labels: Dice",
                "2 labelled patients per hospital",
                "2 labelled patients per hospital",
                LEAST,
                from_column="true labels: Dice",
            ),
        ),
    ),
    Question(
        "layers",
        "Why a last layer on the student finds no vessels",
        ("F5",),
        "The networks that are reported, frozen; only the last layer's rate and steps differ. Dice of the "
        "vessels at the unseen hospital. Asked after two seeds of the claim were known.",
        (
            Reason(
                "A single layer needs a higher rate than a network: at ten times the rate it finds more",
                "on the student",
                "10 times the rate",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "It learns too short: for four times the steps it finds more",
                "on the student",
                "4 times the steps",
                AS_REPORTED,
                LEAST,
            ),
            Reason(
                "Learned well, it does better on the student than on a CNN, as claimed",
                "on the student",
                "10 times the rate, 4 times the steps",
                "10 times the rate, 4 times the steps",
                from_column="on a CNN",
            ),
        ),
    ),
    Question(
        "pooled",
        "Federated against pooled, for every kind of label",
        ("F4",),
        "Each label taught at the hospitals that own it, and on their scans in one place, with the same "
        "steps and patches. The ratio is the federated score over the pooled one; of errors the pooled "
        "over the federated, so that less than 1 is always a loss to the federation.",
    ),
)


def section(results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """The parts of the page; none of an experiment that was not run."""
    parts: list[str] = []
    for question in QUESTIONS:
        seeds = results.get(question.family, {})
        if not seeds:
            continue
        names = sorted(seeds)
        found = [seeds[seed]["rows"] for seed in names]
        said = f"Seeds {', '.join(map(str, names))}; of each figure the median, and every seed's."
        parts += [
            f"### {question.title} ({', '.join(question.claims)})",
            f"{question.reads} {said}",
        ]
        parts.append(_table(found))
        if question.reasons:
            parts.append("\n".join(_answer(reason, found) for reason in question.reasons))
    if parts:
        parts.insert(0, "## Why, where a claim does not hold here")
    return parts


def _table(seeds: Sequence[Rows]) -> str:
    columns = list(next(iter(seeds[0].values())))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in seeds[0]:
        cells = [_spread([rows[name][column] for rows in seeds]) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _answer(reason: Reason, seeds: Sequence[Rows]) -> str:
    gaps = reason.gaps(seeds)
    held = sum(gap > reason.least for gap in gaps)
    verdict = {0: "no", len(gaps): "yes"}.get(held, "not told apart")
    listed = ", ".join(f"{gap:+.3f}" for gap in gaps)
    return f"- **{verdict}**, in {held} of {len(gaps)} seeds ({listed}): {reason.says}."


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"**{median(values):.3f}** {' '.join(f'{value:.3f}' for value in values)}"
