"""The short way: taken only to an answer; everything else is the application's."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stillroom.common.shortcut import Shortcut

PATH = "/v1/fleet/pull-object"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Stands for Flower: says what it was asked."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    assert (await receive())["type"] == "http.disconnect"
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"long: " + body})


def ask(way: Callable[[Any, bytes], bytes], **changes: Any) -> tuple[int, bytes]:
    """Status and body of the answer to a request that comes in two pieces."""
    headers = [(b"content-type", b"application/protobuf")]
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, **changes}
    coming = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c", "more_body": False},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Shortcut(app, {PATH: way})(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_an_answer_goes_the_short_way() -> None:
    """The application never hears of the request."""
    assert ask(lambda scope, body: scope["path"].encode() + body) == (200, PATH.encode() + b"abc")


def test_what_the_short_way_cannot_answer_is_asked_whole() -> None:
    """Whatever is raised: the application gets every byte, and its answer counts."""

    def refuse(_scope: Any, _body: bytes) -> bytes:
        raise ValueError("not yours")

    assert ask(refuse) == (418, b"long: abc")


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/v1/fleet/push-messages"},
        {"path": PATH + "/"},
        {"method": "GET"},
        {"headers": []},
        {"headers": [(b"content-type", b"application/json")]},
    ],
)
def test_every_other_request_is_the_applications(changes: Any) -> None:
    """Another path, method or kind of body."""
    assert ask(lambda _scope, _body: b"short", **changes) == (418, b"long: abc")


def test_what_is_no_request_passes() -> None:
    """The lifespan has no path."""
    heard = []

    async def lifespan(scope: Any, _receive: Any, _send: Any) -> None:
        heard.append(scope["type"])

    async def none(_message: Any = None) -> Any:
        raise AssertionError

    asyncio.run(Shortcut(lifespan, {})({"type": "lifespan"}, none, none))
    assert heard == ["lifespan"]
