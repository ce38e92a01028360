"""Flower's Runtime API for the runner: in a folder, and to nobody without the shared secret."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import uvicorn
from flwr.supernode.nodestate import NodeStateFactory

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.runtime_app import Doorbell, runtime_app
from stillroom.client.runtime_socket import bound_socket
from stillroom.client.sockets import loopback_listener


class Shared(Protocol):
    """What courier and runner both know."""

    @property
    def runtime_port(self) -> int | None:
        """Loopback port; None where they meet at a socket in ``exchange``."""
        ...

    @property
    def exchange(self) -> Path:
        """The folder both see."""
        ...

    @property
    def secret(self) -> bytes:
        """Shown by the runner."""
        ...


@contextlib.contextmanager
def runtime_listener(states: NodeStateFactory, settings: Shared) -> Iterator[Callable[[], None]]:
    """Open while the block lasts; a task is handed out only against the secret.

    Yields:
        To be called when there is a task; without that the runner has it a tenth of a second later.

    Raises:
        ResourceError: STR-501 when the port is taken, or the socket cannot be made.
    """
    bell = Doorbell()
    with _bound(settings) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                runtime_app(states, settings.secret, bell),
                log_level="warning",
                access_log=False,
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield bell.ring
        finally:
            server.should_exit = True
            bell.close()
            thread.join(timeout=5)


def _bound(settings: Shared) -> AbstractContextManager[socket.socket]:
    if settings.runtime_port is not None:
        return loopback_listener(settings.runtime_port)
    return bound_socket(ExchangeFolder(settings.exchange).socket)
