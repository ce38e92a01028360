"""Loopback sockets, taken before anything else starts so that a clash is told at once."""

import socket

from stillroom.common.errors import ResourceError


def loopback_listener(port: int) -> socket.socket:
    """A bound socket on 127.0.0.1.

    Raises:
        ResourceError: STR-501 when the port is taken.
    """
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"Port {port} on 127.0.0.1 cannot be opened: {error.strerror}.",
            fix="Stop what uses it (see `ss -ltnp`), or change runtime_port in site.toml.",
            code="STR-501",
        ) from error
    return listener
