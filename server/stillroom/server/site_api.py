"""What an enrolled site may ask of us besides Flower's Fleet API: ``/v1/stillroom/...``.

The edge has proven who asks before anything here runs: mutual TLS, an enrolled site, its own key.
Each path has one handler; bodies are small and read whole; an answer is JSON. Files of weights
are another matter, with a module of their own (``depot_api``).
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from stillroom.common.enrolment import RenewQuestion
from stillroom.common.errors import StillroomError
from stillroom.common.versions import present
from stillroom.server.bells import NEWS, Bell, seen_of
from stillroom.server.depot_api import BLOB, UPLOAD, DepotApi, answer
from stillroom.server.enrolment import Authority, renew, utc_now
from stillroom.server.log_api import LOG, LogApi
from stillroom.server.store.registry import Registry
from stillroom.server.store.registry_file import Note

log = logging.getLogger(__name__)

PREFIX = "/v1/stillroom/"
ARRIVE = "arrive"
"""A courier has started; no body, no more to it."""
ABOUT = "about"
"""Which release this is, and which clients it takes; asked by sites of any release."""
MOST_BYTES = 64 * 1024

Handler = Callable[[str, bytes, Registry], dict[str, Any]]
"""Given the proven site, the body and the registry; returns the JSON answer."""


class SiteApi:
    """Routes a site's own requests to their handlers."""

    def __init__(  # everything a site may ask for
        self,
        registry: Path | None,
        handlers: Mapping[str, Handler],
        depot: DepotApi,
        arrived: Callable[[str], bool],
        tasks: Bell | None = None,
        *,
        note: Note | None = None,
        log_api: LogApi | None = None,
    ) -> None:
        """Put requests where they belong.

        Args:
            registry: The registry's file; without one no handler is ever called.
            handlers: By path.
            depot: Answers about files of weights.
            arrived: Told of the start of a site's courier; whether that site's key is known.
            tasks: Rings when a task may have been pushed; None where nothing rings.
            note: Writes into the log what changes in the registry.
            log_api: Hands out the log; None where there is none.
        """
        self._registry, self._handlers = registry, dict(handlers) if registry else {}
        self._depot, self._arrived, self._tasks = depot, arrived, tasks
        self._note, self._log = note, log_api

    async def __call__(self, scope: Scope, receive: Receive, send: Send, site: str) -> None:
        """Answer one request of ``site``."""
        path = scope["path"].removeprefix(PREFIX)
        if path.partition("/")[0] in {BLOB, UPLOAD}:
            await self._depot(scope, receive, send, site=site, path=path)
            return
        if path.startswith(LOG) and self._log is not None and scope["method"] == "GET":
            await self._log(send, path.removeprefix(LOG))
            return
        if path == ARRIVE and scope["method"] == "POST":
            known = await run_in_threadpool(self._arrived, site)
            await answer(send, 200, {"known": known, **present().as_json()})
            return
        if path == ABOUT and scope["method"] == "GET":
            await answer(send, 200, present().as_json())
            return
        if self._tasks is not None and scope["path"] == NEWS and scope["method"] == "GET":
            await answer(send, 200, {"mark": await self._tasks.heard(seen_of(scope))})
            return
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
        with Registry(cast("Path", self._registry), note=self._note) as registry:
            return handler(site, body, registry)


def presence(heard: Callable[[str], float | None]) -> Handler:
    """The handler of ``/v1/stillroom/presence``: when this site's courier was last heard.

    A doctor at the site, where no courier runs, learns so that one runs elsewhere under its name.

    Args:
        heard: Site -> seconds since the epoch; None for never.
    """

    def handle(site: str, _body: bytes, _registry: Registry) -> dict[str, Any]:
        at = heard(site)
        return {"courier_s": None if at is None else round(time.time() - at, 1)}

    return handle


def leaving(site: str, _body: bytes, registry: Registry) -> dict[str, Any]:
    """The handler of ``/v1/stillroom/leave``: a site shuts itself out; the log says that it did."""
    registry.revoke(site, time.time(), act="left")
    log.info("site_api.left", extra={"site": site})
    return {"left": True}


def renewal(authority: Authority) -> Handler:
    """The handler of ``/v1/stillroom/renew``."""

    def handle(site: str, body: bytes, registry: Registry) -> dict[str, Any]:
        said = renew(registry, authority, site, RenewQuestion.parse(body), utc_now())
        if said.certificate is not None:
            log.info("site_api.renewed", extra={"site": site})
        return said.model_dump()

    return handle
