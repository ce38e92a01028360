"""The ServerApp's way to the sites, on a Grid that does what real ones do on bad days."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict

from stillroom.common.messages import INVENTORY, Reply, Task, pack_reply, read_task
from stillroom.server.app import GridExchange
from stillroom.server.rounds.outcome import Answer
from stillroom.server.store.journal import Journal, read_events
from stillroom.server.study_run import Call

pytestmark = pytest.mark.usefixtures("inside_a_task")


@dataclass
class FakeGrid:
    """Nodes by name, and per node what a look for its reply brings: a content, an error, a fault."""

    nodes: dict[str, int]
    answers: dict[int, Any] = field(default_factory=dict)
    pushed: list[Message] = field(default_factory=list)
    pulls: list[str] = field(default_factory=list)

    def get_nodes(self) -> list[Any]:
        """Name and id of every node."""
        return [SimpleNamespace(name=name, node_id=node) for name, node in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        """Flower gives None for a message that it could not take."""
        batch = list(messages)
        self.pushed += batch
        return [
            None
            if isinstance(self.answers.get(m.metadata.dst_node_id), str)
            else str(len(self.pushed))
            for m in batch
        ]

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        """Once per message."""
        (name,) = names
        self.pulls.append(name)
        message = self.pushed[int(name) - 1]
        answer = self.answers.get(message.metadata.dst_node_id)
        if answer is None:
            return []
        if isinstance(answer, Exception):
            raise answer
        return [Message(answer, reply_to=message)]


def ask(grid: FakeGrid, *sites: str, deadline_s: float = 0.05) -> list[tuple[Call, Answer]]:
    exchange = GridExchange(grid, poll_s=0.01)  # type: ignore[arg-type]
    exchange.sites()
    task = Task("d")
    return list(exchange.ask([Call(INVENTORY, s, task) for s in sites], deadline_s=deadline_s))


GOOD = pack_reply(Reply(metrics={"inventory.cases": 3}))


def test_answers_come_in_the_order_of_the_calls() -> None:
    """Not in the order in which they arrived."""
    grid = FakeGrid({"a": 1, "b": 2, "c": 3}, dict.fromkeys((1, 2, 3), GOOD))
    answers = ask(grid, "c", "a", "b")

    assert [call.site for call, _ in answers] == ["c", "a", "b"]
    assert all(answer.reply == Reply(metrics={"inventory.cases": 3}) for _, answer in answers)
    assert {m.metadata.message_type for m in grid.pushed} == {"query.inventory"}
    assert read_task(grid.pushed[0]) == Task("d")


@pytest.mark.parametrize(
    ("given", "reply", "code"),
    [
        (None, False, None),  # silence
        ("unpushable", False, None),
        (Error(3, "node unavailable"), False, None),  # Flower's own: late, not failed
        (Error(1, "STR-401"), False, "STR-401"),
        (Error(1, "DOE^JANE"), False, "STR-300"),
        (RecordDict({"patients": MetricRecord({"age": 3})}), False, "STR-300"),
        (KeyError("Pickle"), False, "STR-300"),  # Flower failed to rebuild what the site sent
        (ValueError("DOE^JANE"), False, "STR-300"),
        (RecursionError(), False, "STR-300"),
        (GOOD, True, None),
    ],
)
def test_what_a_site_can_do_to_us(given: Any, reply: bool, code: str | None) -> None:
    """Whatever it is, it is that site's answer, and the next site's is still read."""
    grid = FakeGrid({"bad": 1, "good": 2}, {1: given, 2: GOOD})
    (_, bad), (_, good) = ask(grid, "bad", "good")

    assert (bad.reply is not None, bad.code) == (reply, code)
    assert good.reply is not None


def test_a_site_that_is_not_connected_is_not_waited_for() -> None:
    """It has no answer, at once."""
    ((_, answer),) = ask(FakeGrid({"a": 1}), "ghost", deadline_s=60)

    assert (answer.reply, answer.code) == (None, None)
    assert answer.seconds < 1


def test_every_answer_gets_one_look_after_the_deadline() -> None:
    """A slow first site does not cost the second one its round."""
    grid = FakeGrid({"slow": 1, "quick": 2}, {2: GOOD})
    (_, slow), (_, quick) = ask(grid, "slow", "quick", deadline_s=0.02)

    assert slow.reply is None
    assert quick.reply is not None


def test_the_servers_own_trouble_is_not_blamed_on_a_site() -> None:
    """A SuperLink that cannot be reached is no refusal of what a site sent."""
    grid = FakeGrid({"a": 1}, {1: httpx.ConnectError("down")})

    with pytest.raises(httpx.ConnectError):
        ask(grid, "a")


def test_waiting_for_sites(tmp_path: Path) -> None:
    """Those who do not come in time are named; nobody is waited for without end."""
    grid = FakeGrid({"a": 1})
    exchange = GridExchange(grid, poll_s=0.01)  # type: ignore[arg-type]

    assert exchange.wait_for({"a"}, timeout_s=60, journal=Journal(tmp_path)) == set()
    assert exchange.wait_for({"a", "b"}, timeout_s=0.05, journal=Journal(tmp_path)) == {"b"}
    assert [e["missing"] for _, e in read_events(tmp_path)] == [[], ["b"]]
