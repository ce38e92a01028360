"""The log over the edge: its files as they lie there, and what sites vouch for.

::

    GET  /v1/stillroom/log/checkpoint            the head, with every cosignature it has gathered
    GET  /v1/stillroom/log/tile/...              tiles and bundles, by C2SP tlog-tiles
    POST /v1/stillroom/cosign                    a checkpoint with the asking site's cosignature
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import Send

from stillroom.common.errors import TrustError
from stillroom.server.depot_api import answer
from stillroom.server.logbook import Logbook
from stillroom.server.store.registry import Registry

LOG = "log/"
COSIGN = "cosign"
_FILE = re.compile(
    r"checkpoint|tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/(x[0-9]{3}/){0,6}[0-9]{3}(\.p/[0-9]{1,3})?"
)


class LogApi:
    """Hands out the files of a log. Nothing but them: a path is a log's, letter by letter."""

    def __init__(self, folder: Path) -> None:
        """Take the log's folder."""
        self._folder = folder

    async def __call__(self, send: Send, path: str) -> None:
        """Answer with one file."""
        data = await run_in_threadpool(self._read, path) if _FILE.fullmatch(path) else None
        if data is None:
            await answer(send, 404, {"code": "STR-300"})
            return
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(len(data)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _read(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except OSError:
            return None


def cosign(book: Logbook) -> Callable[[str, bytes, Registry], dict[str, Any]]:
    """The handler of ``/v1/stillroom/cosign``."""

    def handle(site: str, body: bytes, registry: Registry) -> dict[str, Any]:
        key = registry.site(site).signing_key
        if key is None:
            raise TrustError("The site has no signing key.", fix="Enrol it again.", code="STR-206")
        return {"size": book.cosigned.take(book.log, site, key, body).size}

    return handle
