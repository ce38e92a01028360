"""The gate: the single place of a site through which everything leaves.

``decide`` is the rule: what was asked, what the runner answered, what leaves. ``Gate`` adds the
order: know all of it, decide, write the ledger and wait for the disk, only then hand it out. What
leaves is never the runner's message: the gate frames a message of its own, whose every field comes
from the server's request, around objects that it has read and found to be what they must be.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

from flwr.app import Message

from stillroom.client.ledger import Entry, Ledger
from stillroom.client.outgoing import Outgoing, content_reply, error_reply
from stillroom.common.errors import CODES, ContractError, StillroomError
from stillroom.common.messages import LABEL, MESSAGE_TYPES, Reply
from stillroom.common.parcel import SMALL, Fetch, Parcel, open_parcel
from stillroom.common.study import PreparedStudy
from stillroom.common.tensorfile import header, views
from stillroom.common.update import (
    check_header,
    check_reply,
    expected_manifest,
    expected_weights,
    outside,
)

KINDS = {message_type: kind for kind, message_type in MESSAGE_TYPES.items()}

Permit = Callable[[], None]
"""Raises a StillroomError when this site does not, or no longer, agree to its study."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the server asked for, and the answer is held against.

    Attributes:
        message: As it came, without content.
        kind: A key of ``messages.MESSAGE_TYPES``; empty when it is none of ours.
        stage: Empty for an inventory, or when it is none of ours.
        round: Likewise 0.
    """

    message: Message
    kind: str = ""
    stage: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What leaves, and the ledger's line about it."""

    outgoing: Outgoing
    entry: Entry


class Gate:
    """Holds the study this site takes part in, and the ledger.

    Args:
        prepared: Every message is held against it.
        ledger: The courier is its one writer.
        permit: Asked before a task is handed to the runner and again before its answer leaves.
    """

    def __init__(
        self, prepared: PreparedStudy, ledger: Ledger, permit: Permit | None = None
    ) -> None:
        self._prepared, self._ledger, self._permit = prepared, ledger, permit

    @property
    def most_bytes(self) -> int:
        """Of all arrays of the largest task in the study: its stage's and its teachers'."""
        sizes = {
            name: stage.manifest.nbytes + len(header(stage.manifest.layout))
            for name, stage in self._prepared.stages.items()
        }
        return max(
            sum(sizes.get(name, 0) for name in (stage.name, *stage.teachers))
            for stage in self._prepared.study.stage
        )

    def admit(self, message: Message, fetch: Fetch) -> Request | Outgoing:
        """Hold a request against the study before the runner sees it.

        Returns:
            The request, or the refusal to send in answer to it. Either is in the ledger.
        """
        try:
            if self._permit is not None:
                self._permit()
            request = admit_request(message, fetch, self._prepared, self.most_bytes)
        except StillroomError as error:
            return self._enter(refuse(Request(message), error.code, self._prepared))
        self._ledger.append(_entry(request, self._prepared, kind="task"))
        return request

    def turn_away(self, message: Message, code: str) -> Outgoing:
        """The refusal of a message that could not even be brought here whole."""
        return self._enter(refuse(Request(message), code, self._prepared))

    def release(self, request: Request, reply_id: str, fetch: Fetch) -> Outgoing:
        """Decide on the runner's reply and write the ledger; what is returned may leave.

        Dying before the ledger's fsync: nothing has left, and nothing of it will. Dying after
        it, or while sending: the ledger says ``sent`` for what left in part or not at all.
        """
        try:
            if self._permit is not None:
                self._permit()
            decision = decide(request, reply_id, fetch, self._prepared)
        except StillroomError as error:
            decision = refuse(request, error.code, self._prepared)
        return self._enter(decision)

    def withhold(self, request: Request, code: str = "") -> None:
        """Note that an answer does not leave (any further): nobody waits for it."""
        self._ledger.append(
            _entry(request, self._prepared, kind="withheld", decision="refused", code=code)
        )

    def _enter(self, decision: Decision) -> Outgoing:
        self._ledger.append(decision.entry)
        return decision.outgoing


def admit_request(
    message: Message, fetch: Fetch, prepared: PreparedStudy, most_bytes: int
) -> Request:
    """What a message from the server asks for.

    Raises:
        ContractError: STR-300, no task of ours: an unknown type, a record, setting or file that
            no task has; STR-301, its tensors are not the manifest's.
        TrustError: STR-205, outside the study.
    """
    kind = KINDS.get(message.metadata.message_type)
    if kind is None:
        raise ContractError("A message of an unknown type.", fix="Ask the operator what it is.")
    parcel = open_parcel(message.metadata.message_id, fetch, limit=most_bytes)
    task = parcel.settings.get("task", {})
    study, stage, number = (task.get(name) for name in ("study", "stage", "round"))
    if (
        task.keys() != {"study", "stage", "round"}
        or not (isinstance(study, str) and isinstance(stage, str) and type(number) is int)
        or parcel.numbers
        or parcel.settings.keys() != {"task"}
        or parcel.metadata.message_type != message.metadata.message_type
    ):
        raise ContractError(
            "The message holds more, or less, than a task.", fix="Tell the operator."
        )
    check_header(kind, study, stage, number, prepared)
    wanted = expected_weights(kind, stage, prepared)
    names = {
        name: "weights" if kind != LABEL and name == stage else f"teacher.{name}" for name in wanted
    }
    if parcel.files.keys() != set(names.values()):
        raise outside("other weights than the stage has")
    for name, manifest in wanted.items():
        _require_layout(parcel.files[names[name]], header(manifest.layout), manifest.nbytes)
    return Request(message, kind, stage, number)


def decide(request: Request, reply_id: str, fetch: Fetch, prepared: PreparedStudy) -> Decision:
    """What leaves in answer to ``request``. No side effect but those of ``fetch``.

    Args:
        request: As admitted.
        reply_id: Object id of the runner's message.
        fetch: Brings one object of it; must have checked its name against its bytes.
        prepared: The study.

    Raises:
        StillroomError: The reply is refused, for the reason in its code.
    """
    manifest = expected_manifest(request.kind, request.stage, prepared)
    # Twice what is expected: enough to say by its name what is wrong with most that is too large.
    limit = 0 if manifest is None else 2 * (manifest.nbytes + SMALL)
    parcel = open_parcel(reply_id, fetch, limit=limit)
    _require_answer(parcel, request)
    if parcel.reason is not None:
        if parcel.reason not in CODES:
            raise ContractError(
                "An error reply holds more than a code.", fix="See the runner's log."
            )
        entry = _entry(request, prepared, code=parcel.reason)
        return Decision(error_reply(request.message, parcel.reason), entry)
    file = b"".join(parcel.files.get("weights", ()))
    reply = _reply(parcel, file)
    with ThreadPoolExecutor(1) as other:  # the second of two looks at everything, side by side
        digest = other.submit(lambda: sha256(file).hexdigest())
        norm = check_reply(request.kind, request.stage, reply, prepared)
    entry = _entry(
        request,
        prepared,
        content=digest.result() if file else "",
        bytes=len(file),
        norm=norm,
        samples=dict(reply.samples),
        metrics=dict(reply.metrics),
    )
    return Decision(content_reply(request.message, parcel), entry)


def refuse(request: Request, code: str, prepared: PreparedStudy) -> Decision:
    """A refusal: the server is told the code and nothing else."""
    entry = _entry(request, prepared, kind="refused", decision="refused", code=code)
    return Decision(error_reply(request.message, code), entry)


def _require_answer(parcel: Parcel, request: Request) -> None:
    """Every field of the metadata is the request's, turned round."""
    asked, given = request.message.metadata, parcel.metadata
    if (
        given.run_id,
        given.reply_to_message_id,
        given.src_node_id,
        given.dst_node_id,
        given.group_id,
        given.message_type,
    ) != (
        asked.run_id,
        asked.message_id,
        asked.dst_node_id,
        asked.src_node_id,
        asked.group_id,
        asked.message_type,
    ):
        raise ContractError(
            "The runner answered another message than the one it was given.",
            fix="See the runner's log.",
            code="STR-307",
        )


def _reply(parcel: Parcel, file: bytes) -> Reply:
    """The reply in a parcel, whose records are exactly a reply's and in their order."""
    if parcel.settings or parcel.records not in {("metrics",), ("metrics", "weights", "samples")}:
        raise ContractError(
            "The reply holds records that are not part of a reply.", fix="See the runner's log."
        )
    if any(list(numbers) != sorted(numbers) for numbers in parcel.numbers.values()):
        raise ContractError("The reply's numbers are not in order.", fix="See the runner's log.")
    try:
        weights = views(file) if parcel.files else None
        samples, metrics = parcel.numbers.get("samples", {}), parcel.numbers["metrics"]
    except (KeyError, ValueError) as error:
        raise ContractError(
            "The reply's weights are not one safetensors file.", fix="See the runner's log."
        ) from error
    return Reply(weights, samples, metrics)


def _require_layout(file: tuple[memoryview, ...], head: bytes, nbytes: int) -> None:
    """Only the beginning is read: the values are the runner's affair, which uses them."""
    beginning = b""
    for chunk in file:
        if len(beginning) < len(head):
            beginning += chunk[: len(head) - len(beginning)]
    if sum(map(len, file)) != len(head) + nbytes or beginning != head:
        raise ContractError(
            "The task's tensors are not the ones of its stage.",
            fix="Ask the operator which study is running.",
            code="STR-301",
        )


def _entry(request: Request, prepared: PreparedStudy, **facts: object) -> Entry:
    known = {"study": prepared.digest, "message": request.kind} if request.kind else {}
    return Entry.model_validate(
        {
            "kind": "sent",
            "decision": "allowed",
            "stage": request.stage,
            "round": request.round,
            "request": request.message.metadata.message_id,
            **known,
            **facts,
        }
    )
