"""Sockets that are taken before anything starts, and the servers behind them in one event loop."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import uvicorn
from typing_extensions import override

from stillroom.common.errors import ResourceError
from stillroom.server.bells import Bell

GRACE_S = 2.0
"""How long a request under way may take to end when the server stops."""


class Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs two of them."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_all(
    inner: tuple[uvicorn.Server, socket.socket],
    outer: Sequence[tuple[uvicorn.Server, socket.socket]],
    chores: Sequence[Coroutine[Any, Any, None]],
    bells: Sequence[Bell],
) -> None:
    """Serve on every socket; those that others reach open only once the application is up."""
    loop = asyncio.get_running_loop()
    servers = [inner[0], *(server for server, _ in outer)]

    def cut_all() -> None:
        for server, _ in outer:
            for connection in list(server.server_state.connections):
                connection.transport.abort()

    def stop() -> None:
        for server in servers:
            server.should_exit = True
        for bell in bells:
            bell.close()
        # A file of weights may be on its way for an hour; it goes on when we are back.
        loop.call_later(GRACE_S, cut_all)

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    serving = asyncio.create_task(inner[0].serve(sockets=[inner[1]]))
    while not inner[0].started and not serving.done():
        await asyncio.sleep(0.02)
    tasks = [asyncio.create_task(chore) for chore in chores]
    await asyncio.gather(serving, *(server.serve(sockets=[listener]) for server, listener in outer))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything else starts so that a clash is told at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"Port {port} on {host} cannot be opened: {error.strerror}.",
            fix="Stop what uses it (see `ss -ltnp`), or change edge_port or inner_port.",
            code="STR-501",
        ) from error
    return listener
