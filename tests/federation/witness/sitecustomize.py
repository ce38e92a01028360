"""Writes down every address that any Python process of a rehearsal connects to or resolves.

Loaded by the interpreter itself because the tests put this folder on PYTHONPATH; an audit hook
cannot be removed and sees every connection, whichever library opens it.
"""

import os
import sys

_EVENTS = {"socket.connect", "socket.getaddrinfo", "socket.sendto"}


def _witness(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _EVENTS:
        return
    place = arguments[1] if event != "socket.getaddrinfo" else arguments[:2]
    command = " ".join(sys.orig_argv).replace("\n", " ")
    line = f"{event}\t{place!r}\t{command}\n".encode()
    descriptor = os.open(os.environ["STILLROOM_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)


if "STILLROOM_WITNESS" in os.environ:
    sys.addaudithook(_witness)
