"""The depot over HTTP, for the site that the edge has proven to be asking.

::

    GET  /v1/stillroom/blob/<sha256>       Range: bytes=N-     a published file, or its rest
    GET  /v1/stillroom/upload/<sha256>?total=M                 {"have": n, "complete": bool}
    PUT  /v1/stillroom/upload/<sha256>?offset=N&total=M        the bytes from N on; the same answer

Bodies are never whole in memory: of an upload one piece is being gathered while the one before is
written, of a download one piece is on its way at a time, and whoever is faster waits. Disk and
digests are in threads; the event loop only moves bytes.

A refusal while a body is still coming ends the connection: reading on only to throw bytes away
would cost the site its line. The site asks where its upload stands before it sends again.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from stillroom.common.errors import StillroomError
from stillroom.server.depot import Depot, is_name
from stillroom.server.upload import TooMany, Upload, WrongOffset

log = logging.getLogger(__name__)

BLOB, UPLOAD = "blob", "upload"
PIECE = 1 << 18
"""Bytes written or read at a time. A connection holds several: with 16 sites that fetch at once, pieces
of 1 MiB cost the server 4.5 MiB a site, of 256 KiB 1.4 MiB, and of 128 KiB twice the processor time."""
STALL_S = 60.0
"""A sender of whom nothing comes for so long is let go; it may come back."""
MOST_AT_ONCE = 64
"""Transfers under way in each direction, which bounds memory: up to 6 MiB a site, with its connections."""
_RANGE = re.compile(rb"bytes=([0-9]{1,15})-")
_NUMBER = re.compile(r"[0-9]{1,15}")
_STATUS = {"STR-311": 422, "STR-312": 413, "STR-503": 507}
"""Error code -> HTTP status; any other is 400."""


class Gone(Exception):  # noqa: N818  # it says what happened, it is no failure of ours
    """The sender is away, or has begun again on another connection."""


@dataclass(slots=True)
class Sender:
    """One connection over which an upload comes.

    Attributes:
        over: Set once it must not go on.
        done: Set once it touches the upload no more.
        waiting: The limit of its present wait for bytes.
    """

    over: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Timeout | None = None

    async def end(self) -> None:
        """Have it stop, and wait until the piece that it is writing is written."""
        self.over = True
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())
        await self.done.wait()

    async def pour(self, receive: Receive, upload: Upload) -> None:
        """Write the body into ``upload``; what has come is written however this ends.

        Raises:
            Gone: Before the body's end.
            StillroomError: As ``Upload.write``.
        """
        piece, writing, more = bytearray(), None, True
        try:
            while more:
                message = await self._next(receive)
                piece += message.get("body", b"")
                more = message.get("more_body", False)
                if len(piece) >= PIECE:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(asyncio.to_thread(upload.write, piece))
                    piece = bytearray()
        finally:
            if writing is not None:
                await writing
            await asyncio.to_thread(upload.write, piece)

    async def _next(self, receive: Receive) -> Mapping[str, Any]:
        if self.over:
            raise Gone
        try:
            async with asyncio.timeout(STALL_S) as self.waiting:
                message = await receive()
        except TimeoutError:
            raise Gone from None
        finally:
            self.waiting = None
        if message["type"] != "http.request":
            raise Gone
        return message


class DepotApi:
    """Answers requests about files of weights. Belongs to the edge's event loop."""

    def __init__(self, depot: Depot) -> None:
        """Take the depot."""
        self._depot = depot
        self._senders: dict[tuple[str, str], Sender] = {}
        self._givers = asyncio.Semaphore(MOST_AT_ONCE)

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, site: str, path: str
    ) -> None:
        """Answer one request of ``site``; ``path`` is without the prefix of all our paths."""
        kind, _, name = path.partition("/")
        call, query = (scope["method"], kind), _numbers(scope["query_string"])
        if not is_name(name):
            call = ("", "")
        try:
            if call == ("GET", BLOB):
                await self._give(scope, receive, send, name)
            elif call == ("GET", UPLOAD):
                await self._tell(send, (site, name), query.get("total"))
            elif call == ("PUT", UPLOAD) and {"offset", "total"} <= query.keys():
                await self._take(receive, send, (site, name), query)
            else:
                await answer(send, 404, {"code": "STR-300"}, close=True)
        except WrongOffset as error:
            await answer(send, 409, {"code": error.code, "have": error.have}, close=True)
        except TooMany as error:
            await answer(send, 429, {"code": error.code}, close=True)
        except Gone:
            # Either nobody hears this, or somebody who has begun again on another connection.
            await answer(send, 408, {"code": "STR-300"}, close=True)
        except StillroomError as error:
            log.warning("depot.refused", extra={"site": site, "code": error.code})
            await answer(send, _STATUS.get(error.code, 400), {"code": error.code}, close=True)

    async def _tell(self, send: Send, key: tuple[str, str], total: int | None) -> None:
        # Who asks will send from where we say: an older connection must not add to it meanwhile.
        await self._end(key)
        have, whole = await asyncio.to_thread(self._depot.have, *key)
        if total is not None and not whole:
            await asyncio.to_thread(self._depot.admit, have=have, total=total)
        await answer(send, 200, {"have": have, "complete": whole})

    async def _take(
        self, receive: Receive, send: Send, key: tuple[str, str], query: Mapping[str, int]
    ) -> None:
        await self._end(key)
        if len(self._senders) >= MOST_AT_ONCE:
            await answer(send, 503, {"code": "STR-503"}, close=True)
            return
        sender = self._senders[key] = Sender()
        try:
            begin = partial(self._depot.begin, *key, offset=query["offset"], total=query["total"])
            with await asyncio.to_thread(begin) as upload:
                await sender.pour(receive, upload)
                whole = await asyncio.to_thread(self._depot.finish, *key, upload)
        finally:
            sender.done.set()
            if self._senders.get(key) is sender:
                del self._senders[key]
        if whole:
            log.info("depot.received", extra={"site": key[0], "bytes": upload.have})
        await answer(send, 200, {"have": upload.have, "complete": whole})

    async def _end(self, key: tuple[str, str]) -> None:
        if (sender := self._senders.get(key)) is not None:
            await sender.end()

    async def _give(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        path = await asyncio.to_thread(self._depot.outgoing, name)
        stream: BinaryIO | None = None
        if path is not None:
            with contextlib.suppress(FileNotFoundError):  # withdrawn this moment
                stream = path.open("rb", buffering=0)
        if stream is None:
            await answer(send, 404, {"code": "STR-311"})
            return
        with stream:
            size = stream.seek(0, 2)
            start = _start(scope)
            if start and start >= size:
                await answer(send, 416, {"code": "STR-311"})
                return
            stream.seek(start)
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"content-length", str(size - start).encode("ascii")),
                (b"content-range", f"bytes {start}-{size - 1}/{size}".encode("ascii")),
            ]
            async with self._givers:
                status = 206 if start else 200
                headers = headers if start else headers[:2]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await _pieces(stream, receive, send, size - start)


async def _pieces(stream: BinaryIO, receive: Receive, send: Send, left: int) -> None:
    """Send ``left`` bytes of ``stream``, until the site goes away."""
    await receive()  # the request's own body, which is empty
    gone = asyncio.ensure_future(receive())
    try:
        while not gone.done():
            piece = await asyncio.to_thread(stream.read, min(PIECE, left))
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            if left <= 0:
                return
    finally:
        gone.cancel()


def _numbers(query: bytes) -> dict[str, int]:
    pairs = parse_qsl(query.decode("ascii", "replace"), max_num_fields=8)
    return {key: int(value) for key, value in pairs if _NUMBER.fullmatch(value)}


def _start(scope: Scope) -> int:
    """The first byte asked for. Ranges of another form may be ignored (RFC 9110, 14.2)."""
    value = next((value for key, value in scope["headers"] if key == b"range"), b"")
    found = _RANGE.fullmatch(value)
    return int(found[1]) if found else 0


async def answer(send: Send, status: int, said: Mapping[str, Any], *, close: bool = False) -> None:
    """Send a small JSON answer, and end the connection if ``close``."""
    body = json.dumps(said).encode("ascii")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
