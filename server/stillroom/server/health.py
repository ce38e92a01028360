"""Whether the server's loopback listener answers, for whoever restarts it when it does not."""

import http.client

from stillroom.common.errors import ResourceError
from stillroom.server.config import ServerConfig

ANSWER_S = 5.0


def require_serving(config: ServerConfig, patience_s: float = ANSWER_S) -> None:
    """The inner listener answers; it opens last, so the others are open then.

    Raises:
        ResourceError: STR-520, it does not.
    """
    line = http.client.HTTPConnection("127.0.0.1", config.inner_port, timeout=patience_s)
    try:
        line.request("GET", "/health")
        status = line.getresponse().status
    except OSError as error:
        raise _silent(config) from error
    finally:
        line.close()
    if status != http.client.OK:
        raise _silent(config)


def _silent(config: ServerConfig) -> ResourceError:
    return ResourceError(
        f"The server does not answer at {config.inner_address}.",
        fix="Look at the end of its log, and start `serve` again.",
        code="STR-520",
    )
