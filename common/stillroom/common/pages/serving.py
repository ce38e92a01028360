"""A page's own small web server: uvicorn on one address, until it is told to stop."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import replace

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stillroom.common.errors import ConfigError, ResourceError, StillroomError
from stillroom.common.markup import Child, Html, join, prose, tag
from stillroom.common.pages.document import alert, document
from stillroom.common.pages.guard import Guard
from stillroom.common.pages.listening import Listening
from stillroom.common.pages.style import live_sheet

REFRESH_S = 15
"""How often a page that is looked at is fetched anew."""
MOST_CONNECTIONS = 64
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3"'
    ' fill="#1f5a6b"/><path d="M6.5 2.5h3v4.2l3 5.3a1.2 1.2 0 0 1-1 1.5h-7a1.2 1.2 0 0 1-1-1.5l3-5.3z"'
    ' fill="#fbfaf7"/></svg>'
)
HEAD = join(
    tag("link", rel="stylesheet", href="/style.css"),
    tag("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
    tag("meta", name="color-scheme", content="light dark"),
)


def page(request: Request, title: str, body: Child, *, status: int = 200) -> Response:
    """A whole page; it is fetched anew from time to time, unless the reader asked it to stand still."""
    still = "still" in request.query_params
    live = tag(
        "p",
        "This page stands still. " if still else f"Fetched again every {REFRESH_S} seconds. ",
        tag(
            "a",
            "Keep it up to date" if still else "Let it stand still",
            href=request.url.path if still else "?still",
        ),
        class_="live",
    )
    headers = {} if still else {"Refresh": str(REFRESH_S)}
    text = document(title, join(body, tag("footer", live, FOOTER)), head=HEAD)
    return Response(text, status, headers, "text/html")


FOOTER = tag(
    "p",
    "Served from this machine: no script, nothing from elsewhere. Times are UTC, by this machine's "
    "clock.",
)


def in_words(error: StillroomError) -> Html:
    """An expected failure, as every command shows it."""
    said = join(tag("p", tag("code", error.code), " ", error.what), tag("p", prose(error.fix)))
    return alert("This cannot be shown", said)


def application(routes: list[Route], listening: Listening) -> Guard:
    """``routes``, the style sheet and the icon, behind the guard."""
    fixed = [
        Route("/style.css", _fixed(live_sheet(), "text/css")),
        Route("/icon.svg", _fixed(ICON, "image/svg+xml")),
    ]
    return Guard(Starlette(routes=[*routes, *fixed]), listening)


def _fixed(text: str, kind: str) -> Callable[[Request], Response]:
    def answer(_: Request) -> Response:
        return Response(text, media_type=kind)

    return answer


def serve(app: Guard, listening: Listening, *, told: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: What to serve.
        listening: Where.
        told: Gets the page's address once it can be opened.

    Raises:
        ResourceError: STR-501, the port is taken.
        ConfigError: STR-101, certificate and key cannot be used.
    """
    with bound(listening) as found:
        server = server_of(app, listening)
        there = replace(listening, port=found.getsockname()[1])
        told(there.url)
        server.run(sockets=[found])


def server_of(app: Guard, listening: Listening) -> uvicorn.Server:
    """uvicorn, with nothing that a page does not need.

    Raises:
        ConfigError: STR-101, certificate and key cannot be used.
    """
    context = _context(listening)
    config = uvicorn.Config(
        app,
        lifespan="off",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    return uvicorn.Server(config)


def bound(listening: Listening) -> socket.socket:
    """The socket, which takes connections from now on.

    Raises:
        ResourceError: STR-501, the port is taken.
    """
    found = socket.socket(socket.AF_INET6 if ":" in listening.host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((listening.host, listening.port))
        # Before the address is told: whoever reads it may open it at once.
        found.listen()
    except OSError as error:
        found.close()
        raise ResourceError(
            f"Port {listening.port} on {listening.host} cannot be opened: {error.strerror}.",
            fix="Stop what uses it (see `ss -ltnp`), or choose another with --listen.",
            code="STR-501",
        ) from error
    return found


def _context(listening: Listening) -> ssl.SSLContext | None:
    if listening.certificate is None or listening.private_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listening.certificate, listening.private_key)
    except OSError as error:
        raise ConfigError(
            "The page's certificate and key cannot be used.",
            fix="Check --certificate and --private-key.",
            code="STR-101",
        ) from error
    return context
