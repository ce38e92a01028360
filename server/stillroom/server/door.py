"""The door: the listener a hospital calls before it has a certificate. Three requests, no more.

Server-authenticated TLS 1.3; no client certificate, because there is none yet. Whoever knocks has
a one-time token or nothing. Bodies are at most 16 KiB, each address may knock a few times a
minute, and an unknown, an expired and a spent token get the same answer.
"""

import logging
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stillroom.common.enrolment import MOST_BYTES, Enrol, Message, StatusQuestion
from stillroom.common.errors import StillroomError
from stillroom.server.enrolment import receive, status
from stillroom.server.store.registry import Registry

log = logging.getLogger(__name__)

WINDOW_S = 60.0
ENROL_PER_WINDOW, OTHER_PER_WINDOW = 10, 60
MOST_ADDRESSES = 4096


class Knocks:
    """How often each address asked lately; bounded, the longest silent are forgotten first."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def allow(self, address: str) -> bool:
        """Count one request of ``address``; False when it asked too often."""
        now = self._clock()
        times = self._seen.setdefault(address, deque())
        self._seen.move_to_end(address)
        while times and now - times[0] >= WINDOW_S:
            times.popleft()
        if len(times) >= self._limit:
            return False
        times.append(now)
        while len(self._seen) > MOST_ADDRESSES:
            self._seen.popitem(last=False)
        return True


def door_app(registry: Path, consortium: bytes) -> Starlette:
    """The enrolment application.

    Args:
        registry: The registry's file.
        consortium: ``consortium.json``, handed to everybody who asks: it holds public keys only.
    """
    for_enrol, for_others = Knocks(ENROL_PER_WINDOW), Knocks(OTHER_PER_WINDOW)

    def serve(answer: Callable[[bytes], Response], knocks: Knocks) -> Callable[..., object]:
        async def endpoint(request: Request) -> Response:
            address = request.client.host if request.client else ""
            try:
                if not knocks.allow(address):
                    return _refuse("too-often", 429)
                raw = await _body(request)
                if raw is None:
                    return _refuse("too-large", 413)
                return await run_in_threadpool(answer, raw)
            except StillroomError as error:
                return _refuse(error.code, 403)
            except ClientDisconnect:
                return _refuse("gone", 400)

        return endpoint

    def enrol(raw: bytes) -> Response:
        with Registry(registry) as opened:
            answer = receive(opened, Enrol.parse(raw), time.time())
        log.info("door.requested", extra={"site": answer.site})
        return _say(answer)

    def ask(raw: bytes) -> Response:
        question = StatusQuestion.parse(raw)
        with Registry(registry, read_only=True) as opened:
            return _say(status(opened, question, time.time()))

    def describe(_raw: bytes) -> Response:
        return Response(consortium, media_type="application/json")

    return Starlette(
        routes=[
            Route("/v1/enrol", serve(enrol, for_enrol), methods=["POST"]),
            Route("/v1/enrol/status", serve(ask, for_others), methods=["POST"]),
            Route("/v1/consortium", serve(describe, for_others), methods=["GET"]),
        ]
    )


def door_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with the server's certificate; the caller shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    return context


async def _body(request: Request) -> bytes | None:
    """The body; None as soon as it exceeds the limit, whatever its header said."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _say(message: Message) -> Response:
    return Response(message.encode(), media_type="application/json")


def _refuse(code: str, http: int) -> Response:
    # The code and nothing else: what a stranger sent is not repeated to anybody.
    log.warning("door.refused", extra={"reason": code})
    return JSONResponse({"code": code}, status_code=http)
