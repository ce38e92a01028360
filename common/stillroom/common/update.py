"""What each kind of message may hold.

One check, done by the site before it sends and by the server when it receives; and one for what
the server asks, done by the server of itself and by every site.
"""

import math
import re
from collections.abc import Mapping
from typing import BinaryIO

from stillroom.common.encoding import BlobReader, most_bytes
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.layout import SAME_RELEASE, with_layout
from stillroom.common.manifest import Manifest, Tally
from stillroom.common.messages import INVENTORY, LABEL, ROUND, STAGE, Reply, Task, UpdateRef
from stillroom.common.metrics import COUNTS, check_cohort, check_metrics
from stillroom.common.study import PreparedStudy, Stage
from stillroom.common.tensorfile import MAX_HEADER, header

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

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_reply(
    kind: str,
    stage: str,
    reply: Reply,
    prepared: PreparedStudy,
    *,
    base: str | None = None,
    encoding: str | None = None,
) -> None:
    """Refuse a reply that holds anything but what its kind of task is answered with.

    The numbers an update's file holds are not looked at: see ``check_update_file``.

    Args:
        kind: A key of ``messages.MESSAGE_TYPES``.
        stage: Stage asked for; empty for an inventory.
        reply: As decoded; nothing in it is trusted.
        prepared: The study.
        base: SHA-256 of the model that was sent with the task, where the caller knows it.
        encoding: Of the update; the stage's when left out.

    Raises:
        ContractError: STR-300, STR-301, STR-304; STR-307, an update of another model. Never quotes
            a name or value that came with the reply.
    """
    check_numbers(kind, reply.metrics, prepared)
    manifest = expected_manifest(kind, stage, prepared)
    update = reply.update
    if manifest is None or update is None:
        if manifest is not None or update is not None or reply.samples:
            raise ContractError(
                "Tensors came back where only numbers were asked for, or the other way round.",
                fix=SAME_RELEASE,
                code="STR-301",
            )
        return
    check_samples(reply.samples, manifest)
    own = prepared.study.stage_named(stage).exchange.encoding
    check_update_ref(update, manifest, encoding or own)
    if base is not None and update.base != base:
        raise ContractError(
            "The update was made from another model than the one that was sent.",
            fix="See the site's log.",
            code="STR-307",
        )


def check_update_ref(update: UpdateRef, manifest: Manifest, encoding: str) -> None:
    """Refuse the name of a file that no update of this manifest can have.

    Raises:
        ContractError: STR-300, another encoding than the stage's, or a base that is no digest;
            STR-301, a size that is out of the question.
    """
    if update.encoding != encoding or not all(map(_is_sha256, (update.base, update.sha256))):
        raise ContractError("The update is not in the encoding of its stage.", fix=SAME_RELEASE)
    # Twice what is expected: enough to say by its name what is wrong with most that is too large.
    if not 0 < update.nbytes <= 2 * (most_bytes(encoding, manifest) + MAX_HEADER):
        raise ContractError(
            "The update is larger than its stage's tensors.", fix=SAME_RELEASE, code="STR-301"
        )


def check_update_file(
    stream: BinaryIO, update: UpdateRef, manifest: Manifest, prepared: PreparedStudy
) -> float:
    """Refuse an update's file that holds anything but the manifest's tensors, finite and bounded.

    Looked at block by block: no part of it stays in memory, and every byte is read once.

    Args:
        stream: The file's bytes from the first on.
        update: What the reply says of it.
        manifest: The stage's.
        prepared: The study.

    Returns:
        Norm of the weights; of their change where the encoding holds that.

    Raises:
        ContractError: STR-300, not a file of this encoding; STR-301 to STR-303 as
            ``Manifest.check`` says, with twice the norm for a change; STR-311, its bytes have
            another digest or size than ``update`` says.
    """
    bound = prepared.study.study.max_update_norm
    whole = update.encoding == "fp32"
    if whole:
        stream = with_layout(stream, manifest)
    reader = BlobReader(stream, update.encoding, manifest)
    tally = Tally(manifest, bound if whole else 2 * bound)
    for spec, _, block in reader:
        tally.add(spec, block)
    if reader.finish() != (update.sha256, update.nbytes):
        raise ContractError(
            "The update's file is not what its name says.",
            fix="See the site's log; the update was not used.",
            code="STR-311",
        )
    return tally.norm()


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
    for name, value in metrics.items():
        count = name.rsplit(".", 1)[-1] in COUNTS
        if (
            not name.startswith(PREFIXES[kind])
            or abs(value) > (MOST_CASES if count else MOST)
            or (count and (value < 0 or value != math.floor(value)))
        ):
            raise ContractError(
                f"The number {name} does not answer this task, or is out of its range.",
                fix=SAME_RELEASE,
                code="STR-304",
            )
    check_cohort(metrics, prepared.study.study.min_cohort)


def check_task(kind: str, task: Task, prepared: PreparedStudy) -> None:
    """Refuse a task outside the study: asked by the server of itself, and by every site.

    Raises:
        TrustError: STR-205.
        ContractError: STR-301, a model whose size is not its manifest's.
    """
    check_header(kind, task.study, task.stage, task.round, prepared)
    wanted = expected_weights(kind, task.stage, prepared)
    if task.models.keys() != wanted.keys():
        raise outside("other weights than the stage has")
    for name, model in task.models.items():
        encoding = prepared.study.stage_named(name).exchange.encoding
        delta = model.delta
        if model.nbytes != file_size(wanted[name]) or (
            delta is not None and delta.nbytes > most_bytes(encoding, wanted[name])
        ):
            raise ContractError(
                "A model of the task has not the size of its stage's tensors.",
                fix="Ask the operator which study is running.",
                code="STR-301",
            )
        if delta is not None and encoding == "fp32":
            raise outside("a change of weights where its stage sends them whole")


def file_size(manifest: Manifest) -> int:
    """Bytes of the plain safetensors file of a manifest's tensors."""
    return len(header(manifest.layout)) + manifest.nbytes


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
    if (kind == LABEL) == found.exchanges:
        raise outside("another kind of work than the stage's recipe")
    if kind == STAGE and not found.declared.scored:
        raise outside("scores of a model that predicts no label")


def expected_weights(kind: str, stage: str, prepared: PreparedStudy) -> dict[str, Manifest]:
    """Stage name -> manifest of the weights that go with a task, in the order of ``needed_models``."""
    if kind == INVENTORY:
        return {}
    names = needed_models(kind, _stage(stage, prepared))
    return {name: prepared.stages[name].manifest for name in names}


def needed_models(kind: str, stage: Stage) -> tuple[str, ...]:
    """Stages whose weights go with a task: its own where it has some, and those that it builds on.

    A model is scored with its backbone, and without what it started from or learned from.
    """
    own = (stage.name,) if stage.exchanges else ()
    if kind == STAGE:
        return own if stage.backbone is None else (*own, stage.backbone)
    return (*own, *stage.inputs)


def _is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


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
