"""What became of each site in a round, and whether the round counts. Pure."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from stillroom.common.errors import CODES, ContractError, StillroomError, TrustError
from stillroom.common.messages import Reply, Task, UpdateRef
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.update import check_reply, check_update_file
from stillroom.server.rounds.deadline import needed

Status = Literal["admitted", "refused", "failed", "late"]

Opened = AbstractContextManager[BinaryIO]
Arrived = Callable[[UpdateRef], Opened | None]
"""An update's file, opened, as it arrived under its name; None when none did."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One site in one round.

    Attributes:
        status: ``admitted`` counts; ``refused`` broke a rule; ``failed`` said it could not;
            ``late`` had not answered at the deadline or was not reachable.
        reason: Error code and its registered text; empty when admitted.
        samples: Cases per parameter group.
        metrics: Whitelisted numbers.
        bytes_up: Of the update's file.
        bytes_down: Of the files the task names, each in its smallest form: what a site that was
            there the round before has to fetch. What crossed the line is in the edge's record.
        seconds: From the opening of the round to the answer in hand.
        update: The update's file; None where only numbers came, or nothing that counts.
    """

    status: Status
    reason: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    update: UpdateRef | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one call: a reply, or an error's code, or nothing in time."""

    reply: Reply | None
    code: str | None
    seconds: float


def judge(
    answer: Answer, *, kind: str, task: Task, prepared: PreparedStudy, arrived: Arrived
) -> Outcome:
    """Decide whether one answer is used: the check that the site's own gate did, done again.

    Args:
        answer: What came back.
        kind: What was asked, a key of ``messages.MESSAGE_TYPES``.
        task: What was asked.
        prepared: The study.
        arrived: Finds the update's file; it is read once, in blocks.
    """
    down = bytes_down(task)
    if answer.reply is None and answer.code is None:
        return silent(task, answer.seconds)
    if answer.reply is None:
        code = str(answer.code)
        status: Status = "refused" if code.startswith("STR-3") else "failed"
        return Outcome(status, reason(code), bytes_down=down, seconds=answer.seconds)
    reply, up = answer.reply, 0
    try:
        base = task.models[task.stage].sha256 if task.stage in task.models else None
        check_reply(kind, task.stage, reply, prepared, base=base)
        if reply.update is not None:
            up = reply.update.nbytes
            _check_file(reply.update, task.stage, prepared, arrived)
    except StillroomError as error:
        return Outcome(
            "refused", reason(error.code), bytes_up=up, bytes_down=down, seconds=answer.seconds
        )
    return Outcome(
        "admitted",
        samples=reply.samples,
        metrics=reply.metrics,
        bytes_up=up,
        bytes_down=down,
        seconds=answer.seconds,
        update=reply.update,
    )


def _check_file(update: UpdateRef, stage: str, prepared: PreparedStudy, arrived: Arrived) -> None:
    """Refuse an update whose file did not come, or holds what it must not.

    Raises:
        ContractError, TrustError: As ``check_update_file``; STR-311, there is no such file.
    """
    opened = arrived(update)
    if opened is None:
        raise TrustError(
            "The update's file did not arrive.", fix="See the site's log.", code="STR-311"
        )
    with opened as stream:
        check_update_file(stream, update, prepared.stages[stage].manifest, prepared)


def silent(task: Task, seconds: float) -> Outcome:
    """What becomes of a site that has not answered when its round closes."""
    return Outcome(
        "late", "no answer before the round closed", bytes_down=bytes_down(task), seconds=seconds
    )


def bytes_down(task: Task) -> int:
    """Size of the files a task names, each in its smallest form."""
    return sum(
        model.nbytes if model.delta is None else model.delta.nbytes
        for model in task.models.values()
    )


def reason(code: str) -> str:
    """A code with its registered text, for records and screens."""
    return f"{code}: {CODES.get(code, 'unknown')}"


def require_quorum(study: Study, stage: str, outcomes: Mapping[str, Outcome]) -> None:
    """End the study when too few sites count.

    Where fewer sites were invited than the quorum (the owners of a rare label), all of them
    must count: a quorum can never ask for more sites than there are.

    Raises:
        ContractError: STR-305 none, STR-306 too few, with every site's reason.
    """
    admitted = [site for site, outcome in outcomes.items() if outcome.status == "admitted"]
    enough = needed(study.study.quorum, len(outcomes))
    if len(admitted) >= enough:
        return
    why = "; ".join(f"{s}: {o.reason}" for s, o in outcomes.items() if o.status != "admitted")
    raise ContractError(
        f"Stage {stage}: {len(admitted)} of {len(outcomes)} sites gave a usable update, "
        f"{enough} needed. {why}",
        fix="Mend what the sites report, then start the study again.",
        code="STR-306" if admitted else "STR-305",
    )


def round_record(
    number: int,
    outcomes: Mapping[str, Outcome],
    *,
    seconds: float,
    model: str | None,
    epsilon: float | None = None,
) -> dict[str, Any]:
    """One round as it is written and shown: every site, and the sums.

    Args:
        number: 1-based.
        outcomes: By site, in the order in which updates were summed.
        seconds: From opening to commit.
        model: Digest of the stage's new model.
        epsilon: What the stage has spent of its privacy with this round; None without a bound.
    """
    admitted = [o for o in outcomes.values() if o.status == "admitted"]
    groups = sorted({group for o in admitted for group in o.samples})
    return {
        "round": number,
        "order": [s for s, o in outcomes.items() if o.status == "admitted"],
        "sites": {
            site: {
                "status": o.status,
                **({"reason": o.reason} if o.reason else {}),
                "samples": dict(o.samples),
                "metrics": dict(o.metrics),
                **({"update": _update_record(o.update)} if o.update else {}),
                "bytes_up": o.bytes_up,
                "bytes_down": o.bytes_down,
                "seconds": round(o.seconds, 3),
            }
            for site, o in outcomes.items()
        },
        "samples": {group: sum(o.samples.get(group, 0) for o in admitted) for group in groups},
        "bytes_up": sum(o.bytes_up for o in outcomes.values()),
        "bytes_down": sum(o.bytes_down for o in outcomes.values()),
        "seconds": round(seconds, 3),
        **({"model_sha256": model} if model else {}),
        **({"epsilon": epsilon} if epsilon is not None else {}),
    }


def _update_record(update: UpdateRef) -> dict[str, str]:
    return {"sha256": update.sha256, "base": update.base, "encoding": update.encoding}
