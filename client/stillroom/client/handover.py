"""A task in the runner's hands: given, watched, and given again when the runner it was with is gone.

Flower notices a dead runner by its missed heartbeats, after minutes, and then answers for it. Here
the runner holds a lock that the operating system lets go of with the process, so it is known at once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.run import Run
from flwr.supernode.nodestate import InMemoryNodeState, NodeState

from stillroom.client.exchange import ExchangeFolder, runner_present
from stillroom.common.messages import failure_code

EMPTY_FAB = Fab("", b"", {})


class RunnerAway(Exception):  # noqa: N818  # it says what happened, it is no failure of ours
    """There was no runner for as long as is put up with."""


def is_no_answer(error: Error) -> bool:
    """Whether a reply says nothing but that the task is to be given once more.

    Flower's own words for heartbeats that stayed away, as they also do when the clock jumps (the
    lock says better who lives), and the runner's for a pause that was over before we heard of it.
    """
    return error.code == ErrorCode.CLIENT_APP_CRASHED or failure_code(error) == "STR-515"


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done, kept for a second time.

    Attributes:
        message: Without its content.
        tree: Its objects' names.
        objects: Those objects.
        node: This site's Flower node.
    """

    message: Message
    tree: ObjectTree
    objects: dict[str, bytes]
    node: int


@dataclass(slots=True)
class Handover:
    """One task in the runner's hands.

    Attributes:
        work: The task.
        state: Where the runner finds its task.
        store: Where it finds the objects.
        exchange: Where it says that it lives.
        grace_s: How long no runner at all is put up with.
        ring: Tells the runner that there is a task.
        task: Flower's number of it.
        holder: Boot id of the runner that has taken it; empty for none.
        last_seen: When a runner was there last (monotonic clock).
    """

    work: Work
    state: NodeState
    store: ObjectStore
    exchange: ExchangeFolder
    grace_s: float
    ring: Callable[[], None] = lambda: None
    task: int = 0
    holder: str = ""
    last_seen: float = field(default_factory=time.monotonic)

    def give(self) -> None:
        """Put the message where the runner finds it, with a run that carries no code."""
        run_id = self.work.message.metadata.run_id
        for name in self.store.preregister(run_id, self.work.tree):
            self.store.put(name, self.work.objects[name])
        if self.state.get_run(run_id) is None:
            run = Run.create_empty(run_id)
            run.fab_hash = self.state.store_fab(EMPTY_FAB)
            run.series_id = run_id
            context = Context(
                run_id=run_id,
                node_id=self.work.node,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            self.state.set_run_series_context(run_id, context)
            self.state.store_run(run)
        self.state.store_message(self.work.message)
        # The task is what the runner takes; it comes last, so that a runner never finds half a
        # message.
        created = self.state.create_task(
            task_type=TaskType.CLIENT_APP,
            run_id=run_id,
            fab_hash=self.state.store_fab(EMPTY_FAB),
        )
        self.task, self.holder = created or 0, ""
        self.ring()

    def withdraw(self) -> None:
        """Nobody is to do it any more; a runner that still does is not listened to."""
        message_id = self.work.message.metadata.message_id
        # What a task is finished with is told to no one; the runner's token ends with it.
        self.state.finish_task(self.task, SubStatus.FAILED, "")
        self.state.delete_messages(message_ids=[message_id])
        self.store.delete(message_id)
        self._forget(message_id)

    def _forget(self, message_id: str) -> None:
        """Flower keeps every finished task, and when it was worked on, for as long as it lives."""
        if isinstance(self.state, InMemoryNodeState):
            with self.state.lock_task_store:
                self.state.task_store.pop(self.task, None)
            with self.state.lock_time_store:
                self.state.time_store.pop(message_id, None)

    def give_again(self) -> None:
        """To whoever takes it next."""
        self.withdraw()
        self.give()

    def hold(self, paused: Callable[[], bool], wait: Callable[[], None]) -> None:
        """Take it back while the site is paused, then give it again.

        Args:
            paused: Whether it still is.
            wait: A short while; raises when nobody waits for the answer any more.
        """
        self.withdraw()
        while paused():
            wait()
        # Half a reply may have come before the runner heard of it; there will be another.
        for reply in self.state.get_messages_legacy(is_reply=True):
            own = reply.metadata.message_id
            self.state.delete_messages(message_ids=[own])
            self.store.delete(own)
        self.last_seen = time.monotonic()
        self.give()

    def look_after(self) -> bool:
        """Give it again when the runner that took it lives no more; True when that was so.

        Raises:
            RunnerAway: There was none for ``grace_s``.
        """
        present, now = runner_present(self.exchange), time.monotonic()
        if present == "":
            return False  # it is starting this very moment
        if present is not None:
            self.last_seen = now
        elif now - self.last_seen > self.grace_s:
            raise RunnerAway
        if not self._is_taken():
            return False
        self.holder = self.holder or present or "nobody"
        if self.holder == present:
            return False
        self.give_again()
        return True

    def _is_taken(self) -> bool:
        tasks = self.state.get_tasks(task_ids=[self.task])
        return bool(tasks) and tasks[0].status.status != Status.PENDING
