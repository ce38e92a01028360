"""A short way past the layers of an HTTP application, for the few requests that are most of all.

Flower's application gives every request a dozen tasks, streams and threads. An object of a message
is a kilobyte, and a round moves scores of them on every hop. Here such a request costs one thread
and the functions of Flower's that answer it. A way is taken only to an answer: whatever it raises,
the request goes through the application as if there were no other way, and is refused there. So a
way must be one that can be gone twice.
"""

from collections.abc import Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Way = Callable[[Scope, bytes], bytes]
"""Request and its body -> the body of the answer. Raises where it has none; called in a thread."""
PROTOBUF = b"application/protobuf"


class Shortcut:
    """An ASGI application with short ways.

    Args:
        app: Takes every other request, and those that a way has no answer to.
        ways: By path, of requests whose method is POST.
    """

    def __init__(self, app: ASGIApp, ways: Mapping[str, Way]) -> None:
        self._app, self._ways = app, ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        way = self._ways.get(scope.get("path", ""))
        if way is None or scope["method"] != "POST" or not _speaks_protobuf(scope):
            await self._app(scope, receive, send)
            return
        messages, body = await whole(receive)
        try:
            found = await run_in_threadpool(way, scope, body)
        except Exception:  # noqa: BLE001  # the application finds the same, and says it its own way
            await self._app(scope, again(messages, receive), send)
            return
        length = (b"content-length", str(len(found)).encode("ascii"))
        headers = [length, (b"content-type", PROTOBUF)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": found})


def _speaks_protobuf(scope: Scope) -> bool:
    return any(name == b"content-type" and value == PROTOBUF for name, value in scope["headers"])


async def whole(receive: Receive) -> tuple[list[Message], bytes]:
    """Every message of a request, and the body that they make together."""
    messages = [await receive()]
    while messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages, b"".join(message.get("body", b"") for message in messages)


def again(messages: list[Message], receive: Receive) -> Receive:
    """Gives the messages of a request once more, and then what follows them."""

    async def give() -> Message:
        return messages.pop(0) if messages else await receive()

    return give
