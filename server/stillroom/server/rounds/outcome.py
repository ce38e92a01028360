"""What became of each site in a round, and whether the round counts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stillroom.common.errors import CODES, ContractError, StillroomError
from stillroom.common.messages import Reply, tensor_bytes
from stillroom.common.study import PreparedStudy, Study
from stillroom.common.update import check_reply

Status = Literal["admitted", "refused", "failed", "late"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One site in one round.

    Attributes:
        status: ``admitted`` counts; ``refused`` broke a rule; ``failed`` said it could not;
            ``late`` had not answered at the deadline or was not reachable.
        reason: Error code and its registered text; empty when admitted.
        samples: Cases per parameter group.
        metrics: Whitelisted numbers.
        bytes_up: Of the tensors received, unframed.
        bytes_down: Of the tensors sent, unframed.
        seconds: From the opening of the round to the answer in hand.
    """

    status: Status
    reason: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one call: a reply, or an error's code, or nothing in time."""

    reply: Reply | None
    code: str | None
    seconds: float


def judge(
    answer: Answer, *, kind: str, stage: str, prepared: PreparedStudy, bytes_down: int
) -> Outcome:
    """Decide whether one answer is used: the check that the site's own gate did, done again.

    Args:
        answer: What came back.
        kind: What was asked, a key of ``messages.MESSAGE_TYPES``.
        stage: Of which stage; empty for an inventory.
        prepared: The study.
        bytes_down: Of the task that was sent.
    """
    if answer.reply is None and answer.code is None:
        return Outcome(
            "late", "no answer before the deadline", bytes_down=bytes_down, seconds=answer.seconds
        )
    if answer.reply is None:
        code = str(answer.code)
        status: Status = "refused" if code.startswith("STR-3") else "failed"
        return Outcome(status, reason(code), bytes_down=bytes_down, seconds=answer.seconds)
    reply = answer.reply
    up = tensor_bytes(reply.weights)
    try:
        check_reply(kind, stage, reply, prepared)
    except StillroomError as error:
        return Outcome(
            "refused",
            reason(error.code),
            bytes_up=up,
            bytes_down=bytes_down,
            seconds=answer.seconds,
        )
    return Outcome(
        "admitted",
        samples=reply.samples,
        metrics=reply.metrics,
        bytes_up=up,
        bytes_down=bytes_down,
        seconds=answer.seconds,
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
    needed = min(study.study.quorum.min_sites, len(outcomes))
    if len(admitted) >= max(needed, 1):
        return
    why = "; ".join(f"{s}: {o.reason}" for s, o in outcomes.items() if o.status != "admitted")
    raise ContractError(
        f"Stage {stage}: {len(admitted)} of {len(outcomes)} sites gave a usable update, "
        f"{needed} needed. {why}",
        fix="Mend what the sites report, then start the study again.",
        code="STR-306" if admitted else "STR-305",
    )


def round_record(
    number: int, outcomes: Mapping[str, Outcome], *, seconds: float, model: str | None
) -> dict[str, Any]:
    """One round as it is written and shown: every site, and the sums."""
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
    }


def mean_metric(outcomes: Mapping[str, Outcome], name: str) -> float | None:
    """Mean of one metric over admitted sites that report it; None when none does."""
    values: Sequence[float] = [
        o.metrics[name] for o in outcomes.values() if o.status == "admitted" and name in o.metrics
    ]
    return sum(values) / len(values) if values else None
