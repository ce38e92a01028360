"""A runner's question for work: held until there is some, and never answered to nobody."""

import asyncio
import threading
import time
from typing import Any

import pytest

from stillroom.client import runtime_app
from stillroom.client.runtime_app import ACQUIRE, Doorbell, Holding


class Desk:
    """Flower's application, a task that may be there, and a runner that may go."""

    def __init__(self) -> None:
        self.bell, self.work, self.asked = Doorbell(), False, 0
        self.gone: asyncio.Event | None = None
        self.holding = Holding(self.app, lambda: self.work, self.bell)

    async def app(self, _scope: Any, receive: Any, send: Any) -> None:
        """Stands for Flower."""
        assert (await receive())["body"] == b"question"
        self.asked += 1
        await send("answer")

    async def ask(self, path: str = ACQUIRE) -> list[Any]:
        """What the runner is told."""
        self.gone = asyncio.Event()
        coming = [{"type": "http.request", "body": b"question", "more_body": False}]
        told: list[Any] = []

        async def receive() -> Any:
            if coming:
                return coming.pop()
            assert self.gone is not None
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            told.append(message)

        await self.holding({"type": "http", "path": path}, receive, send)
        return told


def timed(coroutine: Any) -> tuple[list[Any], float]:
    """What it returns, and the seconds it took."""
    started = time.monotonic()
    found = asyncio.run(coroutine)
    return found, time.monotonic() - started


def test_a_task_that_is_there_is_given_at_once() -> None:
    """Nothing is held then; nor is any other question ever."""
    desk = Desk()
    desk.work = True
    assert asyncio.run(desk.ask()) == ["answer"]
    desk.work = False
    assert asyncio.run(desk.ask("/v1/runtime/pull-object")) == ["answer"]


def test_a_ring_from_another_thread_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The courier gives a task in its own thread."""
    monkeypatch.setattr(runtime_app, "HOLD_S", 60.0)
    monkeypatch.setattr(runtime_app, "LOOK_S", 60.0)
    desk = Desk()

    def give() -> None:
        desk.work = True
        desk.bell.ring()

    threading.Timer(0.1, give).start()
    found, seconds = timed(asyncio.wait_for(desk.ask(), 20))
    assert found == ["answer"]
    assert seconds >= 0.1


def test_a_task_without_a_ring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little later, by a look."""
    monkeypatch.setattr(runtime_app, "HOLD_S", 60.0)
    desk = Desk()
    threading.Timer(0.05, lambda: setattr(desk, "work", True)).start()
    found, _ = timed(asyncio.wait_for(desk.ask(), 20))
    assert found == ["answer"]


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a task the answer is Flower's own, after a while or when the courier stops."""
    monkeypatch.setattr(runtime_app, "HOLD_S", 0.2)
    found, seconds = timed(Desk().ask())
    assert found == ["answer"]
    assert seconds >= 0.2
    monkeypatch.setattr(runtime_app, "HOLD_S", 60.0)
    desk = Desk()
    threading.Timer(0.05, desk.bell.close).start()
    assert asyncio.run(asyncio.wait_for(desk.ask(), 20)) == ["answer"]


def test_a_runner_that_went_away_takes_nothing() -> None:
    """The task is for the next one: Flower is not even asked."""
    desk = Desk()

    async def leave() -> list[Any]:
        asking = asyncio.ensure_future(desk.ask())
        await asyncio.sleep(0.05)
        assert desk.gone is not None
        desk.gone.set()
        return await asyncio.wait_for(asking, 20)

    assert asyncio.run(leave()) == []
    assert desk.asked == 0
