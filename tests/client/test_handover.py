"""A task in the runner's hands: runners die, come back and stay away; the task is done once more."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, Status
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supernode.nodestate import InMemoryNodeState, NodeState, NodeStateFactory

from stillroom.client.exchange import ExchangeFolder, RunnerLock
from stillroom.client.handover import Handover, RunnerAway, Work, is_no_answer
from stillroom.common.messages import SITE_FAILED

pytestmark = pytest.mark.usefixtures("inside_a_task")


class Bench:
    """A task that was given."""

    def __init__(self, exchange: ExchangeFolder, grace_s: float) -> None:
        factory = ObjectStoreFactory()
        self.store: ObjectStore = factory.store()
        self.state: NodeState = NodeStateFactory(objectstore_factory=factory).state()
        content = RecordDict({"task": ConfigRecord({"study": "a"})})
        message = Message(content, 7, "train.round", ttl=60, group_id="1")
        objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        tree = get_object_tree(message)
        bare = Message(RecordDict(), 7, "train.round", ttl=60)
        bare.__dict__["_metadata"] = message.metadata
        message.metadata.__dict__["_message_id"] = tree.object_id
        self.id, self.run = tree.object_id, message.metadata.run_id
        self.task = Handover(
            Work(bare, tree, objects, 7), self.state, self.store, exchange, grace_s
        )
        self.task.give()

    def take(self) -> bool:
        """As a runner does: the task, its message and its objects; False when there is none."""
        for task in self.state.get_tasks(statuses=[Status.PENDING]):
            assert self.state.claim_task(task.task_id) is not None
            (message,) = self.state.get_messages_legacy(run_ids=[self.run], is_reply=False)
            assert message.metadata.message_id == self.id
            assert self.store.get(self.id)
            self.store.delete(self.id)
            return True
        return False


@pytest.fixture
def exchange(tmp_path: Path) -> ExchangeFolder:
    """The folder with the lock."""
    return ExchangeFolder(tmp_path).prepare()


@pytest.fixture
def runner(exchange: ExchangeFolder) -> Iterator[Callable[[], RunnerLock]]:
    """Starts runners."""
    started: list[RunnerLock] = []

    def start() -> RunnerLock:
        started.append(RunnerLock(exchange))
        return started[-1]

    yield start
    for lock in started:
        lock.close()


def test_a_runner_that_works_is_left_alone(
    exchange: ExchangeFolder, runner: Callable[[], RunnerLock]
) -> None:
    """However long it takes."""
    bench = Bench(exchange, 0.05)
    runner()
    assert bench.take()
    for _ in range(5):
        assert not bench.task.look_after()
        time.sleep(0.02)
    assert not bench.take()


def test_another_life_is_given_the_task_again(
    exchange: ExchangeFolder, runner: Callable[[], RunnerLock]
) -> None:
    """With its message and its objects, once; the first life is not listened to any more."""
    bench = Bench(exchange, 60)
    first = runner()
    assert bench.take()
    bench.task.look_after()
    old = bench.task.task
    first.close()
    runner()

    assert bench.task.look_after()
    assert not bench.state.get_tasks(task_ids=[old])
    assert bench.take()
    assert not bench.task.look_after()
    assert not bench.take()


def test_nobody_waits_to_give_it_again(
    exchange: ExchangeFolder, runner: Callable[[], RunnerLock]
) -> None:
    """It lies ready before the next runner has started; then there is only one of it."""
    bench = Bench(exchange, 60)
    first = runner()
    assert bench.take()
    bench.task.look_after()
    first.close()
    assert bench.task.look_after()
    assert not bench.task.look_after()
    runner()
    assert not bench.task.look_after()
    assert bench.take()
    assert not bench.take()


def test_a_task_nobody_took_is_not_doubled(
    exchange: ExchangeFolder, runner: Callable[[], RunnerLock]
) -> None:
    """A runner that dies before it takes it leaves it as it is."""
    bench = Bench(exchange, 60)
    runner().close()
    assert not bench.task.look_after()
    runner()
    assert not bench.task.look_after()
    assert bench.take()
    assert not bench.take()


def test_no_runner_for_too_long(exchange: ExchangeFolder, runner: Callable[[], RunnerLock]) -> None:
    """The grace begins with the task, and again with the end of each runner."""
    bench = Bench(exchange, 0.3)
    time.sleep(0.2)
    lock = runner()
    bench.task.look_after()
    lock.close()
    time.sleep(0.2)
    bench.task.look_after()
    time.sleep(0.2)
    with pytest.raises(RunnerAway):
        bench.task.look_after()


def test_withdrawn_is_gone(exchange: ExchangeFolder) -> None:
    """Neither task nor message nor object is left for a runner that comes later."""
    bench = Bench(exchange, 60)
    bench.task.withdraw()
    assert not bench.take()
    assert bench.state.get_messages_legacy(is_reply=False) == []
    assert bench.id not in bench.store


def test_a_task_of_a_paused_site_is_taken_back(
    exchange: ExchangeFolder, runner: Callable[[], RunnerLock]
) -> None:
    """Whoever works on it is listened to no more; on resuming it is there once more."""
    bench = Bench(exchange, 60)
    runner()
    assert bench.take()
    looks: list[bool] = []

    def look() -> None:
        looks.append(bench.take())

    bench.task.hold(lambda: len(looks) < 3, look)

    assert looks == [False, False, False]
    assert bench.take()


def test_a_runner_may_come_back_after_a_pause(exchange: ExchangeFolder) -> None:
    """The time of a pause is no time without a runner."""
    bench = Bench(exchange, 0.2)
    left = iter([True, True, True, False])
    bench.task.hold(lambda: next(left), lambda: time.sleep(0.1))
    assert not bench.task.look_after()


@pytest.mark.parametrize(
    ("code", "reason", "no_answer"),
    [
        (ErrorCode.CLIENT_APP_CRASHED, "", True),
        (SITE_FAILED, "STR-515", True),
        (SITE_FAILED, "STR-502", False),
        (SITE_FAILED, "", False),
    ],
)
def test_what_is_no_answer(code: int, reason: str, no_answer: bool) -> None:
    """Work that was interrupted is given again; work that failed has its answer."""
    assert is_no_answer(Error(code=code, reason=reason)) is no_answer


def test_nothing_is_left_of_a_finished_task(exchange: ExchangeFolder) -> None:
    """A courier that has carried a thousand tasks is no larger than one that has carried one."""
    bench = Bench(exchange, 60.0)
    state = bench.state
    assert isinstance(state, InMemoryNodeState)
    for _ in range(3):
        assert bench.take()
        state.record_message_processing_start(bench.id)
        bench.task.give_again()
    bench.task.withdraw()

    assert not state.task_store
    assert not state.time_store
    assert not state.msg_store
    assert not state.task_token_store
