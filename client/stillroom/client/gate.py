"""The gate: the single place of a site through which everything leaves.

``decide`` is the rule: what was asked, what the runner answered, what leaves. ``Gate`` adds the
order: know all of it, decide, write the ledger and wait for the disk, only then hand it out. What
leaves is never what the runner made: its message is replaced by one of ours, whose every field comes
from the server's request or was found to be what it must be, and its file by the outbox's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import Message

from stillroom.client.budget import Budget
from stillroom.client.ledger import Entry, Ledger, read
from stillroom.client.outbox import Outbox, Sealed
from stillroom.client.outgoing import Outgoing, content_reply, error_reply
from stillroom.common.errors import CODES, ContractError, StillroomError
from stillroom.common.messages import MESSAGE_TYPES, ModelRef, Reply, reply_of, task_of
from stillroom.common.parcel import Fetch, Parcel, open_parcel
from stillroom.common.study import PreparedStudy
from stillroom.common.update import check_reply, check_task

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
        models: What goes with it, by stage.
    """

    message: Message
    kind: str = ""
    stage: str = ""
    round: int = 0
    models: Mapping[str, ModelRef] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Digest of the stage's own model, which an update must start from; empty for none."""
        model = self.models.get(self.stage)
        return "" if model is None else model.sha256


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
        outbox: Where files that may leave are made.
        permit: Asked before a task is handed to the runner and again before its answer leaves.
    """

    def __init__(
        self,
        prepared: PreparedStudy,
        ledger: Ledger,
        outbox: Outbox,
        permit: Permit | None = None,
    ) -> None:
        self._prepared, self._ledger, self._outbox = prepared, ledger, outbox
        self._permit = permit
        self._budget = Budget(prepared, read(ledger.path))

    def admit(self, message: Message, fetch: Fetch) -> Request | Outgoing:
        """Hold a request against the study before the runner sees it.

        Returns:
            The request, or the refusal to send in answer to it. Either is in the ledger.
        """
        try:
            if self._permit is not None:
                self._permit()
            request = admit_request(message, fetch, self._prepared)
        except StillroomError as error:
            return self._enter(refuse(Request(message), error.code, self._prepared))
        self._ledger.append(_entry(request, self._prepared, kind="task"))
        return request

    def turn_away(self, request: Request, code: str) -> Outgoing:
        """The refusal of a task that could not be brought here whole, or that nobody does."""
        return self._enter(refuse(request, code, self._prepared))

    def release(self, request: Request, reply_id: str, fetch: Fetch) -> Outgoing:
        """Decide on the runner's reply and write the ledger; what is returned may leave.

        Dying before the ledger's fsync: nothing has left, and nothing of it will. Dying after
        it, or while sending: the ledger says ``sent`` for what left in part or not at all.
        """
        try:
            if self._permit is not None:
                self._permit()
            decision = decide(request, reply_id, fetch, self._outbox)
            self._budget.require(decision.entry.stage, decision.entry.content)
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
        if decision.entry.content:
            self._budget.spend(decision.entry.stage, decision.entry.content)
        return decision.outgoing


def admit_request(message: Message, fetch: Fetch, prepared: PreparedStudy) -> Request:
    """What a message from the server asks for.

    Raises:
        ContractError: STR-300, no task of ours: an unknown type, a record, setting or file that
            no task has; STR-301, its models are not of the manifest's size.
        TrustError: STR-205, outside the study.
    """
    kind = KINDS.get(message.metadata.message_type)
    if kind is None:
        raise ContractError("A message of an unknown type.", fix="Ask the operator what it is.")
    parcel = open_parcel(message.metadata.message_id, fetch)
    if parcel.numbers or parcel.metadata.message_type != message.metadata.message_type:
        raise ContractError(
            "The message holds more, or less, than a task.", fix="Tell the operator."
        )
    task = task_of(parcel.settings)
    check_task(kind, task, prepared)
    return Request(message, kind, task.stage, task.round, dict(task.models))


def decide(request: Request, reply_id: str, fetch: Fetch, outbox: Outbox) -> Decision:
    """What leaves in answer to ``request``.

    The only side effects are those of ``fetch`` and what the outbox keeps in its folder.

    Args:
        request: As admitted.
        reply_id: Object id of the runner's message.
        fetch: Brings one object of it; must have checked its name against its bytes.
        outbox: Makes the file that leaves; it knows the study.

    Raises:
        StillroomError: The reply is refused, for the reason in its code.
    """
    parcel = open_parcel(reply_id, fetch)
    _require_answer(parcel, request)
    if parcel.reason is not None:
        if parcel.reason not in CODES:
            raise ContractError(
                "An error reply holds more than a code.", fix="See the runner's log."
            )
        entry = _entry(request, outbox.prepared, code=parcel.reason)
        return Decision(error_reply(request.message, parcel.reason), entry)
    if any(list(numbers) != sorted(numbers) for numbers in parcel.numbers.values()):
        raise ContractError("The reply's numbers are not in order.", fix="See the runner's log.")
    given = reply_of(parcel.settings, parcel.numbers)
    reply, sealed = leaving(request.kind, request.stage, request.round, given, outbox, request.base)
    entry = _entry(
        request,
        outbox.prepared,
        **_file_facts(sealed),
        samples=dict(reply.samples),
        metrics=dict(reply.metrics),
    )
    return Decision(content_reply(request.message, reply, sealed), entry)


def leaving(
    kind: str, stage: str, number: int, given: Reply, outbox: Outbox, base: str
) -> tuple[Reply, Sealed | None]:
    """What leaves in place of a runner's reply, and the file that goes with it.

    Also where there is no network: a rehearsal in one process goes through the same gate.

    Args:
        kind: A key of ``messages.MESSAGE_TYPES``.
        stage: Stage asked for; empty for an inventory.
        number: Its round.
        given: The runner's reply; nothing in it is trusted.
        outbox: Makes the file.
        base: Digest of the model that went with the task; empty for none.

    Raises:
        StillroomError: Nothing leaves, for the reason in its code.
    """
    # The runner's own file is plain, whatever is made of it here.
    check_reply(kind, stage, given, outbox.prepared, base=base, encoding="fp32")
    if given.update is None:
        return given, None
    sealed = outbox.seal(stage, number, given.update)
    return replace(given, update=sealed.ref), sealed


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


def _file_facts(sealed: Sealed | None) -> dict[str, object]:
    """The ledger's words on the file that leaves."""
    if sealed is None:
        return {}
    ref = sealed.ref
    return {
        "content": ref.sha256,
        "bytes": ref.nbytes,
        "encoding": ref.encoding,
        "norm": sealed.norm,
    }


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
