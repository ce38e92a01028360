"""What each kind of message may hold.

One check, done by the site before it sends and by the server when it receives; and one for what
the server asks, done by the server of itself and by every site.
"""

import math
from collections.abc import Mapping

from stillroom.common.errors import ContractError, TrustError
from stillroom.common.manifest import Manifest
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, Task
from stillroom.common.metrics import COUNTS, check_metrics
from stillroom.common.study import TRAINING_RECIPES, PreparedStudy, Stage

PREFIXES = {
    INVENTORY: ("inventory.",),
    ROUND: ("train.",),
    LABEL: ("pseudo.", "locate."),
    STAGE: ("eval.",),
}
"""Kind of task -> beginnings of the metrics that answer it."""

MOST_CASES = 1_000_000
"""More than any site has: a larger count is not a count."""
MOST = 1e9
"""No loss, Dice, error in mm or number of seconds is larger."""

SAME_RELEASE = "Check that site and server run the same release."


def check_reply(kind: str, stage: str, reply: Reply, prepared: PreparedStudy) -> float:
    """Refuse a reply that holds anything but what its kind of task is answered with.

    Args:
        kind: A key of ``messages.MESSAGE_TYPES``.
        stage: Stage asked for; empty for an inventory.
        reply: As decoded; nothing in it is trusted.
        prepared: The study.

    Returns:
        Norm of the weights; 0 where there are none.

    Raises:
        ContractError: STR-301 to STR-304. Never quotes a name or value that came with the reply.
    """
    check_numbers(kind, reply.metrics, prepared)
    manifest = expected_manifest(kind, stage, prepared)
    if manifest is None:
        if reply.weights is not None or reply.samples:
            raise ContractError(
                "Tensors came back where only numbers were asked for.",
                fix=SAME_RELEASE,
                code="STR-301",
            )
        return 0.0
    norm = manifest.check(
        reply.weights if reply.weights is not None else {},
        max_norm=prepared.study.study.max_update_norm,
    )
    check_samples(reply.samples, manifest)
    return norm


def expected_manifest(kind: str, stage: str, prepared: PreparedStudy) -> Manifest | None:
    """The tensors that answer a kind of task; None where only numbers do."""
    return prepared.stages[stage].manifest if kind == ROUND else None


def check_samples(samples: Mapping[str, int], manifest: Manifest) -> None:
    """Refuse counts of cases that are none.

    Raises:
        ContractError: STR-304.
    """
    counts = samples.values()
    if (
        not samples.keys() <= set(manifest.groups)
        or not all(type(count) is int and 0 <= count <= MOST_CASES for count in counts)
        or not any(counts)
    ):
        raise ContractError(
            "The update's sample counts are not counts of cases for the stage's groups, "
            "or it was trained on no case.",
            fix="See the site's log.",
            code="STR-304",
        )


def check_numbers(kind: str, metrics: Mapping[str, float], prepared: PreparedStudy) -> None:
    """Refuse a number that does not answer this kind of task, or points at single patients.

    Raises:
        ContractError: STR-304.
    """
    check_metrics(metrics, prepared.study)
    least = prepared.study.study.min_cohort
    for name, value in metrics.items():
        count = name.rsplit(".", 1)[-1] in COUNTS
        if (
            not name.startswith(PREFIXES[kind])
            or abs(value) > (MOST_CASES if count else MOST)
            or (count and (value < 0 or value != math.floor(value) or 0 < value < least))
        ):
            raise ContractError(
                f"The number {name} does not answer this task, is out of its range, or counts "
                f"fewer cases than the study's minimum cohort of {least}.",
                fix=SAME_RELEASE,
                code="STR-304",
            )


def check_task(kind: str, task: Task, prepared: PreparedStudy) -> None:
    """Refuse a task outside the study: asked by the server of itself, and by every site.

    Raises:
        TrustError: STR-205.
        ContractError: STR-301 to STR-303 where its tensors are not the manifest's.
    """
    check_header(kind, task.study, task.stage, task.round, prepared)
    wanted = expected_weights(kind, task.stage, prepared)
    given = {} if task.weights is None else {task.stage: task.weights}
    given |= task.teachers
    if given.keys() != wanted.keys() or task.stage in task.teachers:
        raise outside("other weights than the stage has")
    for name, weights in given.items():
        wanted[name].check(weights, max_norm=prepared.study.study.max_update_norm)


def check_header(kind: str, study: str, stage: str, number: int, prepared: PreparedStudy) -> None:
    """The part of ``check_task`` that needs no tensors; raises as it does."""
    if study != prepared.digest:
        raise outside("another study than the one this site accepted")
    if kind == INVENTORY:
        if stage or number:
            raise outside("an inventory of a stage")
        return
    found = _stage(stage, prepared)
    if not 1 <= number <= found.rounds:
        raise outside(f"a round outside the {found.rounds} of its stage")
    if (kind == LABEL) == (found.recipe in TRAINING_RECIPES):
        raise outside("another kind of work than the stage's recipe")


def expected_weights(kind: str, stage: str, prepared: PreparedStudy) -> dict[str, Manifest]:
    """Stage name -> manifest of the weights that go with a task: the stage's and its teachers'."""
    if kind == INVENTORY:
        return {}
    names = list(_stage(stage, prepared).teachers) if kind != STAGE else []
    if kind in (ROUND, STAGE):
        names.append(stage)
    return {name: prepared.stages[name].manifest for name in names}


def _stage(name: str, prepared: PreparedStudy) -> Stage:
    for stage in prepared.study.stage:
        if stage.name == name:
            return stage
    raise outside("a stage that is not in the study")


def outside(what: str) -> TrustError:
    """The refusal of work that nobody agreed to."""
    return TrustError(
        f"The server asked for {what}.",
        fix="Ask the operator which study is running; this site does nothing else.",
        code="STR-205",
    )
