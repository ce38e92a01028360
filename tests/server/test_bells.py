"""The bell: heard at once, never missed, and no harm when it is not there."""

import asyncio
import socket
import time
from typing import Any

import pytest
import uvicorn

from stillroom.server import bells
from stillroom.server.bells import NEWS, REPLIES, Belfry, Bell, Ear


def test_a_ring_is_heard_at_once_and_never_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not heard of the last ring does not wait; who has, waits for the next or a while."""
    monkeypatch.setattr(bells, "HOLD_S", 0.2)

    async def listen() -> None:
        bell = Bell()
        first = await bell.heard("")
        bell.ring()
        second = await asyncio.wait_for(bell.heard(first), 0.1)
        assert second != first
        assert await bell.heard(second) == second  # nothing happened
        waiting = asyncio.ensure_future(bell.heard(second))
        await asyncio.sleep(0)
        bell.ring()
        assert await asyncio.wait_for(waiting, 0.1) != second
        assert Bell().mark != Bell().mark  # of two lives of a server
        bell.close()
        await asyncio.wait_for(bell.heard(bell.mark), 0.1)  # nobody keeps a server from stopping

    asyncio.run(listen())


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands for Flower."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_study_hears_of_replies() -> None:
    """Over the inner listener; without one it waits as long as it was told to."""
    replies = Bell()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(Belfry(nothing, {}, replies), lifespan="off", log_level="critical")
    )

    async def both() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        edge = Belfry(nothing, {REPLIES: replies})
        sent = list[Any]()

        async def send(message: Any) -> None:
            sent.append(message)

        async def study() -> list[float]:
            ear, times = Ear(f"127.0.0.1:{port}"), list[float]()
            for longest in (5.0, 0.3, 5.0):
                started = time.monotonic()
                await asyncio.to_thread(ear.wait, longest)
                times.append(time.monotonic() - started)
            ear.close()
            return times

        while not server.started:
            await asyncio.sleep(0.01)
        listening = asyncio.ensure_future(study())
        await asyncio.sleep(0.8)
        await edge({"type": "http", "path": REPLIES}, None, send)  # type: ignore[arg-type]
        first, still, rung = await listening
        assert first < 0.3  # it has heard of nothing yet
        assert 0.25 < still < 0.8
        assert rung < 2.0
        assert sent
        server.should_exit = True
        await serving

    asyncio.run(both())
    started = time.monotonic()
    Ear(f"127.0.0.1:{port}").wait(0.2)
    Ear("").wait(0.2)
    assert 0.4 <= time.monotonic() - started < 2.0


def test_other_paths_go_on_to_flower() -> None:
    """News are the inner listener's alone where a bell was given for them."""
    seen = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    async def ask() -> None:
        for path in (NEWS, "/v1/fleet/pull-messages"):
            scope = {"type": "http", "path": path, "query_string": b""}
            await Belfry(app, {})(scope, None, None)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert seen == [NEWS, "/v1/fleet/pull-messages"]
    assert bells.seen_of({"query_string": b"seen=abc-1"}) == "abc-1"
    assert bells.seen_of({"query_string": b"\xff" * 9}) == ""
