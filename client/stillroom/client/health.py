"""Whether one of a hospital's two processes lives, for whoever restarts it when it does not.

It says nothing about the line to the consortium: a server that is away for an hour is no reason to
restart a courier, which waits for it.
"""

import socket

from stillroom.client.config import SiteConfig
from stillroom.client.exchange import ExchangeFolder, runner_present
from stillroom.client.runtime_socket import short_name
from stillroom.common.errors import ResourceError

ANSWER_S = 5.0


def require_courier(site: SiteConfig) -> None:
    """The courier listens for its runner.

    Raises:
        ResourceError: STR-520, nobody does.
    """
    try:
        if site.runtime_port is not None:
            where = ("127.0.0.1", site.runtime_port)
            socket.create_connection(where, timeout=ANSWER_S).close()
            return
        with (
            short_name(ExchangeFolder(site.exchange).socket) as name,
            socket.socket(socket.AF_UNIX) as line,
        ):
            line.settimeout(ANSWER_S)
            line.connect(name)
    except OSError as error:
        raise ResourceError(
            f"The courier of {site.site} does not answer at its socket.",
            fix="Look at the end of its log, and start it again.",
            code="STR-520",
        ) from error


def require_runner(site: SiteConfig) -> None:
    """A runner holds the lock that says it lives.

    Raises:
        ResourceError: STR-511, none does.
    """
    if runner_present(ExchangeFolder(site.exchange)) is None:
        raise ResourceError(
            f"The runner of {site.site} is not running.",
            fix="Look at the end of its log, and start it again.",
            code="STR-511",
        )
