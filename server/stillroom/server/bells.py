"""News without asking again and again: a bell that rings when a message may be there.

Flower is asked by polling: a couple of looks a second from every site, each with a signature to verify,
or a round that waits for the next look. Here a question that costs next to nothing is held until a
message has been pushed, for two seconds at most; only then is Flower asked. Nothing is told but
that something happened, and a bell that is not heard costs a little time and no message.
"""

import asyncio
import http.client
import json
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

NEWS = "/v1/stillroom/news"
HOLD_S = 2.0
"""Longest time a question is held; so long a courier may take to notice that it is to stop."""
TASKS, REPLIES = "/v1/runtime/push-messages", "/v1/fleet/push-messages"
"""Where a study's process pushes tasks, and couriers push replies."""


class Bell:
    """Rung by one side, waited for by the other. Belongs to one event loop."""

    def __init__(self) -> None:
        """A bell that has not rung; its marks are of no other life of the server."""
        self._life, self._count, self._closed = secrets.token_hex(8), 0, False
        self._rung = asyncio.Event()

    @property
    def mark(self) -> str:
        """Another text after every ring."""
        return f"{self._life}-{self._count}"

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._count += 1
        self._rung.set()
        self._rung = asyncio.Event()

    def close(self) -> None:
        """Nobody waits from now on: the server is about to stop."""
        self._closed = True
        self.ring()

    async def heard(self, seen: str) -> str:
        """The mark, as soon as it is not ``seen`` any more, or after ``HOLD_S``."""
        if seen == self.mark and not self._closed:
            try:
                async with asyncio.timeout(HOLD_S):
                    await self._rung.wait()
            except TimeoutError:
                pass
        return self.mark


class Belfry:
    """Flower's application on the inner listener, and the news for the processes of studies.

    Args:
        app: Flower's.
        rings: Path of a request -> the bell that rings once it has been answered.
        news: The bell of ``NEWS``.
    """

    def __init__(self, app: ASGIApp, rings: Mapping[str, Bell], news: Bell | None = None) -> None:
        self._app, self._rings, self._news = app, rings, news

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        path = scope.get("path", "")
        if self._news is not None and path == NEWS:
            body = json.dumps({"mark": await self._news.heard(seen_of(scope))}).encode("ascii")
            length = (b"content-length", str(len(body)).encode("ascii"))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)
        if (bell := self._rings.get(path)) is not None:
            bell.ring()


def seen_of(scope: Scope) -> str:
    """The mark that a question for news has seen; empty when it is none."""
    text = bytes(scope["query_string"]).decode("ascii", "replace")
    return text.removeprefix("seen=") if text.startswith("seen=") and len(text) < 100 else ""


class Ear:
    """Waits for the bell of the inner listener, from the process of a study.

    Args:
        address: ``host:port`` of the listener; empty where there is none to wait for.
    """

    def __init__(self, address: str) -> None:
        self._address, self._mark = address, ""
        self._line: http.client.HTTPConnection | None = None

    def wait(self, longest_s: float) -> None:
        """Return when something was pushed since the last time, or after about ``longest_s``."""
        end = time.monotonic() + longest_s
        while self._address and (left := end - time.monotonic()) > 0:
            line = self._line or http.client.HTTPConnection(self._address, timeout=left)
            line.timeout, self._line = left, None
            if line.sock is not None:
                line.sock.settimeout(left)
            try:
                line.request("GET", f"{NEWS}?{urlencode({'seen': self._mark})}")
                mark = str(json.loads(line.getresponse().read(1024))["mark"])
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                line.close()
                break
            self._line = line
            if mark != self._mark:
                self._mark = mark
                return
        time.sleep(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()
