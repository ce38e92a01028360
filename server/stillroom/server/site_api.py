"""What an enrolled site may ask of us besides Flower's Fleet API: ``/v1/stillroom/...``.

The edge has proven who asks before anything here runs: mutual TLS, an enrolled site, its own key.
Each path has one handler; bodies are small and read whole; an answer is JSON.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from stillroom.common.enrolment import RenewQuestion
from stillroom.common.errors import StillroomError
from stillroom.server.enrolment import Authority, renew, utc_now
from stillroom.server.store.registry import Registry

log = logging.getLogger(__name__)

PREFIX = "/v1/stillroom/"
MOST_BYTES = 64 * 1024

Handler = Callable[[str, bytes, Registry], dict[str, Any]]
"""Given the proven site, the body and the registry; returns the JSON answer."""


class SiteApi:
    """Routes a site's own requests to their handlers."""

    def __init__(self, registry: Path, handlers: Mapping[str, Handler]) -> None:
        """Take the registry's file, and handlers by path."""
        self._registry, self._handlers = registry, dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, site: str) -> None:
        """Answer one request of ``site``."""
        handler = self._handlers.get(scope["path"])
        if handler is None or scope["method"] != "POST":
            await answer(send, 404, {"code": "STR-300"})
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the site went away
            body += message.get("body", b"")
            if len(body) > MOST_BYTES:
                await answer(send, 413, {"code": "STR-300"})
                return
            if not message.get("more_body", False):
                break
        try:
            said = await run_in_threadpool(self._handle, handler, site, bytes(body))
        except StillroomError as error:
            log.warning("site_api.refused", extra={"site": site, "code": error.code})
            await answer(send, 400, {"code": error.code})
            return
        await answer(send, 200, said)

    def _handle(self, handler: Handler, site: str, body: bytes) -> dict[str, Any]:
        with Registry(self._registry) as registry:
            return handler(site, body, registry)


def renewal(authority: Authority) -> Handler:
    """The handler of ``/v1/stillroom/renew``."""

    def handle(site: str, body: bytes, registry: Registry) -> dict[str, Any]:
        said = renew(registry, authority, site, RenewQuestion.parse(body), utc_now())
        if said.certificate is not None:
            log.info("site_api.renewed", extra={"site": site})
        return said.model_dump()

    return handle


async def answer(send: Send, status: int, said: Mapping[str, Any]) -> None:
    """Send a small JSON answer."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode("ascii")})
