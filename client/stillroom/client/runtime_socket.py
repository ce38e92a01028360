"""The one line between courier and runner: a socket in the folder that both see, and no port.

A socket of this kind belongs to a file, not to a network: the runner can be put where there is no
network at all, not even a loopback it shares with the courier, and still be given its work.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from stillroom.common.errors import ResourceError

LONGEST = 100
"""Bytes of a socket's name; the system takes 107 and no more (unix(7))."""


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of ``path`` that the system takes, while the block lasts.

    Folders of hospitals may be long. A long one is named by a descriptor of it.

    Raises:
        OSError: The folder cannot be opened.
    """
    name = os.fspath(path.absolute())
    if len(os.fsencode(name)) <= LONGEST:
        yield name
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextlib.contextmanager
def bound_socket(path: Path) -> Iterator[socket.socket]:
    """A socket that is found at ``path`` while the block lasts.

    What an earlier life left there is removed: the caller holds the lock that says that it is the
    only courier of this site. Whoever may use the folder may connect; work is handed out against
    the shared secret only.

    Raises:
        ResourceError: STR-501, it cannot be made there.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.closing(listener):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with short_name(path) as name:
                listener.bind(name)
            # As open as the folder is: two accounts share it through a group, or nobody does.
            path.chmod(stat.S_IMODE(path.parent.stat().st_mode) & 0o666)
            yield listener
    except OSError as error:
        raise _cannot_be_made(error) from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _cannot_be_made(error: OSError) -> ResourceError:
    return ResourceError(
        f"The socket between courier and runner cannot be made: {error.strerror}.",
        fix="Check that `exchange` in site.toml is on a local disk and that the courier may write "
        "in it.",
        code="STR-501",
    )
