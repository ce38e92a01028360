"""Which of the server's two processes runs: each holds a lock, which the system drops with its holder.

A lock and not a number of a process: that may be another program's by now, or another container's.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from stillroom.server.config import ServerConfig

SERVE, EXECUTE = "serve", "execute"
"""The two commands that stay."""


@contextlib.contextmanager
def alive(config: ServerConfig, command: str) -> Iterator[None]:
    """Be seen to run ``command``, for as long as the block lasts.

    Shared: two that run at once are both seen, and neither stops the other. A disk that has no room
    for the lock's empty file keeps nobody from running.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        config.state.mkdir(parents=True, exist_ok=True)
        path = config.state / f"{command}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_alive(config: ServerConfig, command: str) -> bool:
    """Whether a process runs ``command`` on this server's state. Changes nothing."""
    try:
        descriptor = os.open(config.state / f"{command}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
