"""The study's way to the sites, on a Grid that does what real ones do on bad days."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from stillroom.common.messages import INVENTORY, Reply, Task, pack_reply, read_task
from stillroom.server import exchange as exchanging
from stillroom.server.asking import Call
from stillroom.server.endings import Paused
from stillroom.server.exchange import GridExchange
from stillroom.server.rounds.outcome import Answer
from stillroom.server.starts import note_start
from stillroom.server.store.journal import Journal, read_events

pytestmark = pytest.mark.usefixtures("inside_a_task")

GOOD = pack_reply(Reply(metrics={"inventory.cases": 3}))
Look = Callable[[Message], Any]


@dataclass
class FakeGrid:
    """Nodes by name; what a look for a node's reply brings: nothing, a content, an error, a fault.

    A callable is asked at every look. As at Flower, a content is given once per message.
    """

    nodes: dict[str, int]
    answers: dict[int, Any] = field(default_factory=dict)
    pushed: list[Message] = field(default_factory=list)
    looks: list[list[str]] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    faults: list[BaseException] = field(default_factory=list)
    hasty: list[int] = field(default_factory=list)

    def get_nodes(self) -> list[Any]:
        """Name and id of every node that is online."""
        self.fail()
        return [SimpleNamespace(name=name, node_id=node) for name, node in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        """Flower gives None for a message that it could not take.

        It raises for one that a hasty site has taken before all of it was there.
        """
        self.fail()
        names: list[str | None] = []
        for message in messages:
            if message.metadata.dst_node_id in self.hasty:
                self.hasty.remove(message.metadata.dst_node_id)
                raise ObjectPushError("0" * 64, 1, "session")
            self.pushed.append(message)
            name = str(len(self.pushed))
            message.metadata.__dict__["_message_id"] = name
            broken = isinstance(self.answers.get(message.metadata.dst_node_id), str)
            names.append(None if broken else name)
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        """Replies that are there; one that cannot be decoded spoils the look and those it took."""
        self.looks.append(list(names))
        self.fail()
        found: list[tuple[Message, Any]] = []
        for name in self.looks[-1]:
            message = self.pushed[int(name) - 1]
            answer = self.answers.get(message.metadata.dst_node_id)
            if callable(answer):
                answer = answer(message)
            if answer is None or name in self.given:
                continue
            if not (isinstance(answer, Error) and answer.code == ErrorCode.NODE_UNAVAILABLE):
                self.given.add(name)
            found.append((message, answer))
        for _, answer in found:
            if isinstance(answer, Exception):
                raise answer
        return [Message(answer, reply_to=message) for message, answer in found]

    def fail(self) -> None:
        """What the line does now."""
        if self.faults:
            raise self.faults.pop(0)


@dataclass
class Asked:
    """An exchange, and what it was asked."""

    folder: Path
    grid: FakeGrid

    def __post_init__(self) -> None:
        self.exchange = GridExchange(
            self.grid,  # type: ignore[arg-type]
            Journal(self.folder),
            poll_s=0.05,
            starts=self.folder / "starts",
        )

    def __call__(self, *sites: str, limit_s: float = 0.4) -> dict[str, Answer]:
        """Answers by site."""
        calls = [Call(INVENTORY, site, Task("d")) for site in sites]
        waiting, end = {call.key for call in calls}, time.monotonic() + limit_s
        answers: dict[str, Answer] = {}
        for call, answer in self.exchange.ask(
            calls, awaited=lambda: waiting if time.monotonic() < end else ()
        ):
            assert call.site not in answers
            answers[call.site] = answer
            waiting.discard(call.key)
        return answers

    def again(self) -> list[str]:
        """Why sites were asked again."""
        return [
            e["reason"] for _, e in read_events(self.folder) if e["event"] == "site.asked_again"
        ]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[FakeGrid], Asked]:
    return lambda grid: Asked(tmp_path, grid)


Maker = Callable[[FakeGrid], Asked]


def test_one_look_for_all(ask: Maker) -> None:
    """All are asked, and looked for together; everybody's answer is theirs."""
    grid = FakeGrid({"a": 1, "b": 2, "c": 3}, dict.fromkeys((1, 2, 3), GOOD))
    answers = ask(grid)("c", "a", "b")

    assert set(answers) == {"a", "b", "c"}
    assert all(answer.reply == Reply(metrics={"inventory.cases": 3}) for answer in answers.values())
    assert {m.metadata.message_type for m in grid.pushed} == {"query.inventory"}
    assert read_task(grid.pushed[0]) == Task("d")
    assert grid.looks == [["1", "2", "3"]]


def test_answers_come_as_they_come(ask: Maker) -> None:
    """A slow first site does not keep the second one's answer."""
    grid = FakeGrid({"slow": 1, "quick": 2}, {2: GOOD})
    answers = ask(grid)("slow", "quick")

    assert set(answers) == {"quick"}
    assert answers["quick"].seconds < 0.3


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, None),  # silence
        ("unpushable", None),
        (Error(ErrorCode.NODE_UNAVAILABLE, "away"), None),
        (Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "lost"), None),
        (Error(1, "STR-401"), "STR-401"),
        (Error(1, "DOE^JANE"), "STR-300"),
        (RecordDict({"patients": MetricRecord({"age": 3})}), "STR-300"),
        (KeyError("Pickle"), "STR-300"),  # Flower failed to rebuild what the site sent
        (ValueError("DOE^JANE"), "STR-300"),
        (RecursionError(), "STR-300"),
    ],
)
def test_what_a_site_can_do_to_us(ask: Maker, given: Any, code: str | None) -> None:
    """Whatever it is, it is that site's answer, and the next site's is still read."""
    grid = FakeGrid({"bad": 1, "good": 2}, {1: given, 2: GOOD})
    answers = ask(grid)("bad", "good", limit_s=1.5)

    assert answers["good"].reply is not None
    assert (answers["bad"].code if "bad" in answers else None) == code
    assert "bad" in answers or code is None


def test_a_spoiler_is_looked_for_alone(ask: Maker) -> None:
    """Once is enough: in later rounds it spoils nobody's look."""
    grid = FakeGrid({"bad": 1, "good": 2}, {1: ValueError("x"), 2: GOOD})
    asked = ask(grid)
    asked("bad", "good", limit_s=1.5)
    before = len(grid.pushed)
    grid.looks.clear()
    answers = asked("bad", "good")

    assert (answers["bad"].code, answers["good"].reply is not None) == ("STR-300", True)
    assert all(len(look) == 1 for look in grid.looks)
    assert len(grid.pushed) == before + 2


def test_a_site_is_asked_when_it_connects(ask: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was away at the opening; its answer still counts."""
    monkeypatch.setattr(exchanging, "NODES_S", 0.1)
    grid = FakeGrid({"a": 1}, {1: GOOD, 2: GOOD})
    asked = ask(grid)
    end = time.monotonic() + 0.2

    def arrive(message: Message) -> Any:
        if time.monotonic() > end:
            grid.nodes["ghost"] = 2
        return None

    grid.answers[1] = arrive
    answers = asked("a", "ghost", limit_s=0.8)

    assert set(answers) == {"ghost"}


def test_a_courier_that_starts_is_asked_again(ask: Maker) -> None:
    """Whatever it held when it died: the question is put once more, and answered once."""
    grid = FakeGrid({"a": 1})
    asked = ask(grid)

    def start_then_answer(message: Message) -> Any:
        if message.metadata.message_id == "1":
            note_start(asked.folder / "starts", "a")
            return None
        return GOOD

    grid.answers[1] = start_then_answer
    answers = asked("a")

    assert answers["a"].reply is not None
    assert 2 <= len(grid.pushed) <= 3
    assert asked.again()[0] == "its courier has started again"


def test_a_lost_answer_is_asked_for_again(ask: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower says so, or nobody says anything for a minute."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    lost = Error(ErrorCode.MESSAGE_UNAVAILABLE, "expired")
    grid = FakeGrid({"a": 1})
    grid.answers[1] = lambda m: lost if m.metadata.message_id == "1" else GOOD
    asked = ask(grid)
    assert asked("a")["a"].reply is not None
    assert asked.again() == ["the message or its answer was lost"]

    monkeypatch.setattr(exchanging, "ask_again_s", lambda _: 0.05)
    silent = FakeGrid({"a": 1})
    silent.answers[1] = lambda m: None if m.metadata.message_id == "1" else GOOD
    asked = ask(silent)
    assert asked("a")["a"].reply is not None
    assert asked.again()[-1] == "nothing was heard"


def test_a_site_that_takes_its_message_too_soon(
    ask: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower then raises from the push; the site is asked again, and nobody's study ends."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    grid = FakeGrid({"a": 1, "b": 2, "c": 3}, dict.fromkeys((1, 2, 3), GOOD), hasty=[2, 2])

    answers = ask(grid)("a", "b", "c", limit_s=5)

    assert [answers[site].reply is not None for site in "abc"] == [True] * 3


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_superlink_that_restarts(ask: Maker, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """At whatever call it is away: the study waits, and asks again for what may be lost."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    grid = FakeGrid({"a": 1, "b": 2}, dict.fromkeys((1, 2), GOOD))
    answer = httpx.Response(503, request=httpx.Request("POST", "http://x"))
    away = [httpx.ConnectError("down"), httpx.ReadTimeout("slow")]
    asked = ask(grid)
    asked.exchange.sites()
    grid.faults += [
        *away[: calls % 2 + 1],
        *[httpx.HTTPStatusError("x", request=answer.request, response=answer)] * calls,
    ]

    assert set(asked("a", "b", limit_s=5)) == {"a", "b"}


def test_a_look_that_fails_half_way(ask: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had taken is not given twice, so everybody is asked again."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    grid = FakeGrid({"a": 1}, {1: GOOD})
    original, failed = grid.pull_messages, list[int]()

    def pull(names: Iterable[str]) -> list[Message]:
        found = original(names)
        if not failed:
            failed.append(1)
            raise httpx.ReadError("cut")
        return found

    monkeypatch.setattr(grid, "pull_messages", pull)

    assert ask(grid)("a")["a"].reply is not None
    assert len(grid.pushed) == 2


def test_a_superlink_that_stays_away(ask: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause and no end: a later process goes on."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    monkeypatch.setattr(exchanging, "AWAY_S", 0.05)
    grid = FakeGrid({"a": 1}, faults=[httpx.ConnectError("down")] * 1000)

    with pytest.raises(Paused):
        ask(grid)("a", limit_s=5)


@pytest.mark.parametrize("away", [0, 2])
def test_a_superlink_that_has_started_anew(
    ask: Maker, monkeypatch: pytest.MonkeyPatch, away: int
) -> None:
    """It knows this process no longer: it ends at once, and another one goes on."""
    monkeypatch.setattr(exchanging, "AGAIN_S", 0.01)
    answer = httpx.Response(401, request=httpx.Request("POST", "http://x"))
    error = httpx.HTTPStatusError("x", request=answer.request, response=answer)
    grid = FakeGrid({"a": 1}, faults=[*[httpx.ConnectError("away")] * away, error])

    with pytest.raises(Paused, match="anew") as caught:
        ask(grid)("a")
    assert not caught.value.give_up


def test_a_request_of_ours_that_is_wrong(ask: Maker) -> None:
    """A refusal is no absence: it is told at once."""
    answer = httpx.Response(400, request=httpx.Request("POST", "http://x"))
    error = httpx.HTTPStatusError("x", request=answer.request, response=answer)

    with pytest.raises(httpx.HTTPStatusError):
        ask(FakeGrid({"a": 1}, faults=[error]))("a")


def test_late_answers_come_with_their_own_call(ask: Maker) -> None:
    """After their round, beside the answers of the next one."""
    grid = FakeGrid({"slow": 1, "quick": 2}, {2: GOOD})
    asked = ask(grid)
    asked("slow", "quick", limit_s=0.1)
    grid.answers[1] = lambda m: GOOD if m.metadata.message_id == "1" else None
    calls = [Call(INVENTORY, site, Task("d", "", 0)) for site in ("quick", "slow")]
    end = time.monotonic() + 0.3
    found = [
        call
        for call, _ in asked.exchange.ask(
            calls, awaited=lambda: {c.key for c in calls} if time.monotonic() < end else ()
        )
    ]

    assert [call.site for call in found if call not in calls or id(call) not in map(id, calls)] == [
        "slow"
    ]
    assert [call.site for call in found if id(call) in map(id, calls)] == ["quick"]


def test_waiting_for_sites(ask: Maker) -> None:
    """Those who do not come in time are named; nobody is waited for without end."""
    asked = ask(FakeGrid({"a": 1}))

    assert asked.exchange.wait_for({"a"}, timeout_s=60) == set()
    assert asked.exchange.wait_for({"a", "b"}, timeout_s=0.05) == {"b"}
    assert [e["missing"] for _, e in read_events(asked.folder)] == [[], ["b"]]


def test_every_asking_has_a_later_number(ask: Maker) -> None:
    """What waits for a site from an earlier one is known by it (nodes.withdraw_overtaken)."""
    grid = FakeGrid({"north": 1, "south": 2})
    asked = ask(grid)
    asked("north", limit_s=0.05)
    asked("north", "south", limit_s=0.05)

    assert [m.metadata.group_id for m in grid.pushed] == ["1", "2", "2"]
