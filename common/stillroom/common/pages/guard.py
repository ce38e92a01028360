"""Before every request to a page: is it asked under a name of ours, by whom it should be, from itself?

A page on loopback is within reach of every web site that a browser on this machine has open. So

1. the ``Host`` must be a name of ours: otherwise a site could point its own name here and read along;
2. the password is asked for, where there is one;
3. what changes something must come from this page itself: by its ``Origin``, and, in the form, by a
   token that only a page of this process carries (``Forms``).

Nothing else can be done to a browser than show what stands in the page: no script, no frame, nothing
from elsewhere, nothing kept.
"""

import asyncio
import base64
import logging
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillroom.common.pages.listening import Listening, same_secret

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers send a form's own origin as "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
READS = frozenset({"GET", "HEAD"})
MOST_BYTES = 4096
"""Of a form; ours have under 400."""
AFTER_WRONG_S = 1.0
"""Before a wrong password is answered."""


class Guard:
    """ASGI application that lets through to ``app`` only what should be."""

    def __init__(self, app: ASGIApp, listening: Listening) -> None:
        self._app, self._listening = app, listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._refusal(headers, scope["method"])
        if answer is None:
            await self._app(scope, receive, hardened)
            return
        if answer.status_code == 401 and "authorization" in headers:
            log.warning("page.wrong_password")
            await asyncio.sleep(AFTER_WRONG_S)
        await answer(scope, receive, hardened)

    def _refusal(self, headers: Headers, method: str) -> Response | None:
        host = headers.get("host", "")
        if _name(host) not in self._listening.names:
            return PlainTextResponse("This page does not answer under that name.\n", 421)
        if not self._is_known(headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": 'Basic realm="stillroom", charset="UTF-8"'}
            return PlainTextResponse("A password is needed.\n", 401, challenge)
        if method not in READS and not _is_from_here(headers, host):
            return PlainTextResponse("This was not asked by the page itself.\n", 403)
        return None

    def _is_known(self, authorization: str) -> bool:
        if self._listening.password is None:
            return True
        kind, _, text = authorization.partition(" ")
        try:
            _, _, given = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
        except ValueError:
            return False
        return kind.lower() == "basic" and same_secret(given, self._listening.password)


def _name(host: str) -> str:
    """A ``Host`` without its port; empty for one that is none."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
    return "" if set(host) & set("/?#@\\") else f"[{name}]" if ":" in name else name


def _is_from_here(headers: Headers, host: str) -> bool:
    """Whether a browser says that the request comes from a page of this very address.

    Every browser sends ``Origin`` along with a form; a request without one is not from a form.
    """
    try:
        origin = urlsplit(headers.get("origin", "")).netloc
    except ValueError:
        return False
    return origin == host and headers.get("sec-fetch-site", "same-origin") == "same-origin"


@dataclass(frozen=True, slots=True)
class Forms:
    """The token that every form of this process carries."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    async def read(self, request: Request) -> dict[str, str] | None:
        """The fields of a form of ours; None for anything else."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return None
        try:
            fields = parse_qs(body.decode("utf-8"), max_num_fields=8)
        except (UnicodeDecodeError, ValueError):
            return None
        if not same_secret(fields.get("token", [""])[0], self.token):
            return None
        return {name: values[0] for name, values in fields.items()}
