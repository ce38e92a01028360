"""A study in the words of the person who decides about it. Pure: facts in, text out.

Written for a data protection officer: what is learned, from what, what leaves, for whom, for how
long, and what does not. Every number comes from the study that is signed, or from this site.
"""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from stillroom.common.accounting import together
from stillroom.common.consent import WORDS, Standing
from stillroom.common.consortium import grouped
from stillroom.common.encoding import most_bytes
from stillroom.common.study import PreparedStudy, Stage, Study

WIDTH = 78
KINDS = {"points": "points", "mask": "outlines", "bag": "what a whole scan shows"}
"""Kind of label in words; the classes follow."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the site itself knows.

    Attributes:
        site: Its name.
        server: ``host:port`` of the only address it dials.
        consortium: The consortium's name.
        operator: Who signed the study.
        counts: ``inventory.*`` of the site's scans; None before its first scan.
        standing: What it has said so far.
    """

    site: str
    server: str
    consortium: str
    operator: str
    counts: Mapping[str, float] | None
    standing: Standing = "none"


def describe(prepared: PreparedStudy, facts: SiteFacts) -> str:
    """The whole text, ending with the digest in groups."""
    study = prepared.study
    parts = [
        (f"Study {study.study.name} of {facts.consortium}, for {facts.site}", _intro(study, facts)),
        ("What will be learned", _learned(study)),
        ("From which scans", _scans(study, facts)),
        ("What this hospital would do", _stages(study, facts)),
        ("What will leave this hospital", _leaves(prepared, facts)),
        ("Who receives it, and until when", _receivers(study, facts)),
        ("What will never leave", _stays()),
        ("What is not promised", _not_promised(prepared, facts)),
        (
            "You would sign exactly this study",
            [f"  {line}" for line in digest_lines(prepared.digest)],
        ),
    ]
    blocks = ["\n".join([title, "-" * len(title), *lines]) for title, lines in parts]
    return "\n\n".join(blocks) + "\n"


def digest_lines(digest: str) -> list[str]:
    """A SHA-256 in groups of four digits, eight groups a line: it can be read over a telephone."""
    half = len(digest) // 2
    return [grouped(digest[:half]), grouped(digest[half:])]


def _intro(study: Study, facts: SiteFacts) -> list[str]:
    return _wrapped(
        f"Signed by {facts.operator}. Until now: {WORDS[facts.standing]}. "
        f"Nothing is computed here for this study without this hospital's signature, and the "
        f"server cannot override that. It can be withdrawn at any moment."
    )


def _learned(study: Study) -> list[str]:
    lines = []
    for name, label in study.label.items():
        what = KINDS[label.kind]
        of = ":" if label.kind == "bag" else " of"
        lines += _item(f"{name}: {what}{of} {', '.join(label.classes)}")
    return [
        *_wrapped("A neural network learns to find these in a cardiac CT:"),
        *lines,
        *_wrapped(f"It learns in {len(study.stage)} stages, together with the other hospitals."),
    ]


def _scans(study: Study, facts: SiteFacts) -> list[str]:
    counts = facts.counts
    if counts is None:
        return _wrapped(
            "The scans of this hospital have not been listed yet. Run `stillroom-client data scan` "
            "first, then read this again."
        )
    lines = _item(f"{_cases(counts, 'cases')} that can be used")
    for label, definition in study.label.items():
        how = "written down" if definition.kind == "bag" else "drawn"
        lines += _item(f"{_cases(counts, f'{label}.cases')} with {label} {how} by this hospital")
    lines += _item(f"{_cases(counts, 'unlabelled.cases')} with none of these")
    return [*_wrapped("Counted on this machine, in the folders named in site.toml:"), *lines]


def _cases(counts: Mapping[str, float], what: str) -> str:
    number = int(counts.get(f"inventory.{what}", 0))
    return f"{number} scan" if number == 1 else f"{number} scans"


def _stages(study: Study, facts: SiteFacts) -> list[str]:
    lines: list[str] = []
    for stage in study.stage:
        takes_part, why = taking_part(study, stage, facts)
        verdict = "takes part" if takes_part else "takes no part"
        lines += _item(f"{stage.name} ({_purpose(stage)}, {_rounds(stage)}): {verdict}, {why}")
    return [
        *lines,
        *_wrapped(
            "After a stage, this hospital may be asked to score the result on its own labelled "
            "scans. Only the scores leave."
        ),
    ]


def _rounds(stage: Stage) -> str:
    return f"{stage.rounds} round{'s' * (stage.rounds != 1)}"


def _purpose(stage: Stage) -> str:
    return stage.declared.purpose(stage)


def taking_part(study: Study, stage: Stage, facts: SiteFacts) -> tuple[bool, str]:
    """Whether this site would be asked in ``stage``, and why; as the server decides it."""
    counts = facts.counts or {}
    if facts.site in study.study.held_out:
        if stage.declared.everywhere:
            return True, "its own scans are prepared for scoring"
        return False, "the study keeps this hospital for scoring only"
    if facts.counts is None:
        return True, "if it has scans for it; they have not been listed yet"
    if not counts.get("inventory.cases"):
        return False, "there is no scan that can be used"
    if stage.label is not None:
        owned = int(counts.get(f"inventory.{stage.label}.cases", 0))
        if not owned:
            return False, f"no scan here has {stage.label}"
        return True, f"{_cases(counts, f'{stage.label}.cases')} here with {stage.label}"
    return True, "every training hospital does"


def _leaves(prepared: PreparedStudy, facts: SiteFacts) -> list[str]:
    study, lines, total = prepared.study, list[str](), 0.0
    for stage in study.stage:
        if not stage.exchanges or not taking_part(study, stage, facts)[0]:
            continue
        manifest = prepared.stages[stage.name].manifest
        size = most_bytes(stage.exchange.encoding, manifest) / 1e6
        total += size * stage.rounds
        lines += _item(
            f"{stage.name}: {_tensors(len(manifest.tensors))}, {size:.2f} MB a round, "
            f"{size * stage.rounds:.1f} MB in {_rounds(stage)}{_written(stage)}"
        )
    if not lines:
        lines = _item("none: this hospital trains in no stage")
    label, definition = next(iter(study.label.items()))
    first = definition.classes[0]
    score = {"mask": "dice", "points": "error_mm", "bag": "auc"}[definition.kind]
    least = study.study.min_cohort
    small = (
        f"A count below {least} leaves as 0, and a score over fewer scans does not leave."
        if least > 1
        else "This study sets no minimum: a count of 1 leaves as 1."
    )
    return [
        *_wrapped("1. Weights of the network, and nothing that was computed beside them:"),
        *lines,
        *_item(f"in all at most {total:.1f} MB, never more than this list"),
        *_wrapped("2. Numbers from a fixed list, a few kB a message, for example:"),
        *_item(f"inventory.{label}.cases: how many scans have {label}"),
        *_item("train.loss, train.cases, train.seconds: how learning went, averaged"),
        *_item(f"eval.{label}.{first}.{score}: how well {first} was found, averaged"),
        *_wrapped(small),
        *_wrapped("An average over one scan is that scan's own."),
        *_wrapped("3. Error codes such as STR-401, without any text."),
        *_wrapped(
            "Everything that leaves, and everything that was refused, is in this hospital's own "
            "ledger."
        ),
    ]


def _written(stage: Stage) -> str:
    """What a stage's encoding and privacy make of its numbers, in words."""
    words = {
        "fp32": "",
        "bf16-delta": "; only what changed since the last common network, in two bytes a number: "
        "it tells as much as the weights themselves",
        "int8-delta": "; only what changed since the last common network, in one byte a number: "
        "it tells almost as much as the weights themselves",
    }[stage.exchange.encoding]
    return words + ("; with noise, see below" if stage.privacy is not None else "")


def _tensors(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


def _receivers(study: Study, facts: SiteFacts) -> list[str]:
    last = study.study.expires
    until = (
        f"The study ends on {last.isoformat()} at the latest."
        if last is not None
        else "The study names no last day."
    )
    return _wrapped(
        f"Only {facts.consortium}, at {facts.server}; this hospital calls no other address. "
        f"The other hospitals receive the average of a stage's hospitals; where this hospital is the "
        f"only one in a stage, that is its own weights. "
        f"{until} A consent runs out by itself after the days you choose (180 unless you say "
        f"otherwise)."
    )


def _stays() -> list[str]:
    return [
        *_item("scans: no voxel, no slice, no thumbnail"),
        *_item("names, dates, identifiers, and every other DICOM tag"),
        *_item("names of files and folders, texts of error messages"),
        *_item("labels, drawn here or found by a network"),
        *_wrapped("The consortium's server can send no program here that would be run."),
    ]


def _not_promised(prepared: PreparedStudy, facts: SiteFacts) -> list[str]:
    training = [
        stage
        for stage in prepared.study.stage
        if stage.exchanges and taking_part(prepared.study, stage, facts)[0]
    ]
    private = [stage for stage in training if stage.privacy is not None]
    bare = [stage.name for stage in training if stage.privacy is None]
    noise = "no noise is added to them"
    if private:
        noise = f"noise is added in {', '.join(stage.name for stage in private)}"
        noise += f", none in {', '.join(bare)}" if bare else ""
    traces = f"Weights can carry traces of what they were trained on, and {noise}."
    gone = (
        "What has left cannot be called back: after a withdrawal nothing more leaves, but averages "
        "that were already made remain."
    )
    if not private:
        return _wrapped(f"{traces} {gone}")
    return [*_wrapped(traces), *_privacy(prepared, private), *_wrapped(gone)]


def _privacy(prepared: PreparedStudy, private: list[Stage]) -> list[str]:
    """What noise promises, to whom, and about what it says nothing."""
    lines, spent = list[str](), list[tuple[float, float]]()
    for stage in private:
        privacy, epsilon = stage.privacy, prepared.stages[stage.name].epsilon
        if privacy is None or epsilon is None:
            continue
        spent.append((epsilon[-1], privacy.delta))
        lines += _item(
            f"{stage.name}: epsilon {_up(epsilon[0])} after the first round, {_up(epsilon[-1])} "
            f"after the last of {_rounds(stage)}, with delta {privacy.delta:g}"
        )
    if len(spent) > 1:
        most, chance = together(*zip(*spent, strict=True))
        lines += _item(f"all of them together: epsilon {_up(most)}, delta {chance:g}")
    return [
        *_wrapped(
            "The noise is added on this machine, before anything leaves: not even the server "
            "sees the weights without it. How little they then tell is given by two numbers:"
        ),
        *lines,
        *_wrapped(
            "An epsilon below 1 is a strong promise, one above 10 a weak one; delta is the chance "
            "that it fails. It is a promise about this hospital as a whole: whatever other scans "
            "it might have held, these weights would hardly tell. It was not made for one patient "
            "and does not cover the numbers under 2. It holds for one update a round: the courier "
            "counts them in the ledger and lets no other leave."
        ),
    ]


def _up(epsilon: float) -> str:
    """Two digits, never fewer than there are."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
