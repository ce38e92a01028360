"""Flower's SuperExec: starts the process of a study, with no installation at run time.

Apart from ``superlink``, whose imports (an HTTP server, a database) this process does not need: it
waits for as long as the server runs, and its memory counts like any other's.
"""

import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

from flwr.supercore.retry import http_retry
from flwr.supercore.superexec.run_superexec import run_superexec

from stillroom.server.alive import EXECUTE, alive
from stillroom.server.config import ServerConfig

RETRY_MOST_S = 2
"""Longest pause between two attempts to reach the SuperLink, which is on this machine."""


def execute(config: ServerConfig) -> None:
    """Run Flower's SuperExec until stopped."""
    # flwr-serverapp is looked up on PATH; it must be the one beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["FLWR_HOME"] = str(config.state / "flwr")
    _come_back_soon()
    secret = superexec_secret(config)
    with alive(config, EXECUTE):
        run_superexec(
            runtime_api_address=config.inner_address,
            insecure=True,
            superexec_auth_secret=secret,
            runtime_dependency_install=False,
        )


def _come_back_soon() -> None:
    """Have Flower's SuperExec in this process ask a SuperLink that was away again within seconds.

    Its pauses double up to 20 s, and a study stands still for as long after the server is back.
    """
    setattr(http_retry, "MAX_RETRY_DELAY", RETRY_MOST_S)  # noqa: B010  # a name the module does not export


def superexec_secret(config: ServerConfig) -> bytes:
    """The secret that lets a SuperExec take tasks; made once, mode 0600."""
    path = config.secret_file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Made complete under another name and linked into place, so that two processes that
        # start together agree on the first one's secret.
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_hex(32).encode("ascii"))
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
        Path(name).unlink()
    return path.read_bytes()
