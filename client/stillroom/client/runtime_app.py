"""Flower's Runtime API as the runner finds it: its question for work is held until there is some.

A runner that asks twenty times a second costs both processes more than the rest of a small round.
Its question is signed and is answered by Flower as ever; it only waits here, for a second at most,
while there is no task. A runner that went away meanwhile is given none. Objects of messages go the
short way (``common.shortcut``), and a layer that would trace requests for nobody is left out.

What this relies on in flwr 1.41 is held by tests/client/test_flower_contract.py.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from flwr.common.constant import Status
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.dependencies.version import VersionDependency
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.servicer.runtime import runtime_handlers
from starlette.types import ASGIApp, Receive, Scope, Send

from stillroom.common.shortcut import Shortcut, Way, again, whole

RUNTIME = "/v1/runtime/"
ACQUIRE = f"{RUNTIME}acquire-task"
HOLD_S = 1.0
"""Longest time a question is held; so long a runner may take to notice that it is to stop."""
LOOK_S = 0.1
"""Pause between two looks for a task of which nobody was told."""


class Doorbell:
    """Rung by the courier, from any thread, when there is a task; heard by who holds questions."""

    def __init__(self) -> None:
        """A bell that nobody waits for."""
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self.closed = False

    def ring(self) -> None:
        """Wake everybody who waits."""
        for event, loop in list(self._waiting.items()):
            loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Nobody waits from now on."""
        self.closed = True
        self.ring()

    async def heard(self, longest_s: float) -> None:
        """Return after a ring, or after ``longest_s``."""
        event = asyncio.Event()
        self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(longest_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            del self._waiting[event]


class Holding:
    """Flower's application, with questions for work held.

    Args:
        app: Flower's.
        is_work: Whether there is a task that nobody has taken.
        bell: Rings when there is.
    """

    def __init__(self, app: ASGIApp, is_work: Callable[[], bool], bell: Doorbell) -> None:
        self._app, self._is_work, self._bell = app, is_work, bell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope.get("path") != ACQUIRE:
            await self._app(scope, receive, send)
            return
        messages, _ = await whole(receive)
        gone = asyncio.ensure_future(receive())  # after the body, nothing comes but the end
        try:
            end = asyncio.get_running_loop().time() + HOLD_S
            while not (gone.done() or self._bell.closed or self._is_work()):
                if (left := end - asyncio.get_running_loop().time()) <= 0:
                    break
                heard = asyncio.ensure_future(self._bell.heard(min(left, LOOK_S)))
                await asyncio.wait({gone, heard}, return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()
            if gone.done():
                return  # a task that it took would be lost with it
        finally:
            gone.cancel()
        await self._app(scope, again(messages, receive), send)


def runtime_app(states: NodeStateFactory, secret: bytes, bell: Doorbell) -> ASGIApp:
    """What the courier serves to its runner.

    Args:
        states: Where tasks, messages and objects are.
        secret: Work is handed out only to who knows it.
        bell: To be rung when there is a task.
    """
    app = create_app(state_factory=states, superexec_auth_secret=secret)
    idle = set[object]()
    if os.environ.get("FLWR_TRACING_ENABLED") != "1":
        idle.add(RuntimeTracingMiddleware)
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in idle]
    state = states.state()

    def is_work() -> bool:
        return bool(state.get_tasks(statuses=[Status.PENDING], limit=1))

    return Holding(Shortcut(app, _object_ways(app, state)), is_work, bell)


def _object_ways(app: FastAPI, state: NodeState) -> dict[str, Way]:
    """Objects of messages, to and from the runner: as Flower does it, with the token of its task."""
    check = VersionDependency(
        component_name="SuperNode", connection_name="Caller <-> SuperNode Runtime API"
    )

    def way(kind: type, handler: Callable[..., Any]) -> Way:
        def go(scope: Scope, body: bytes) -> bytes:
            request = Request({**scope, "app": app})
            check(request)
            task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
            asked = kind.FromString(body)  # type: ignore[attr-defined]
            return cast(bytes, handler(asked, state, task).SerializeToString())

        return go

    return {
        f"{RUNTIME}pull-object": way(PullObjectRequest, runtime_handlers.pull_object),
        f"{RUNTIME}push-object": way(PushObjectRequest, runtime_handlers.push_object),
    }
