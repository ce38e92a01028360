"""``stillroom-server page`` and ``watch``: what the server's files say, in a browser and in a terminal."""

from pathlib import Path
from typing import Annotated

import typer

from stillroom.common.pages.options import FollowParent, Listen, Names, PasswordFile, PrivateKey

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
]


def page(
    config: Config,
    listen: Listen = "127.0.0.1:8490",
    password_file: PasswordFile = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM, for TLS; [tls] of server.toml has one.")
    ] = None,
    private_key: PrivateKey = None,
    name: Names = None,
    follow_parent: FollowParent = None,
) -> None:
    """Serve the operator's page and its metrics; reads the server's files and changes nothing."""
    from stillroom.common.lifetime import follow
    from stillroom.common.pages.listening import listening
    from stillroom.common.pages.serving import serve
    from stillroom.server.config import ServerConfig
    from stillroom.server.page.application import operator_page

    if follow_parent is not None:
        follow(follow_parent)
    settings = ServerConfig.load(config)
    where = listening(
        listen,
        names=name,
        password_file=password_file,
        certificate=certificate,
        private_key=private_key,
    )
    serve(operator_page(settings, where), where, told=typer.echo)


def watch(
    config: Config,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    every_s: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show sites, runs, refusals and slow sites in a terminal, as they change; Ctrl-C ends it."""
    import time

    from rich.console import Console
    from rich.live import Live

    from stillroom.server.config import ServerConfig
    from stillroom.server.page.overview import look
    from stillroom.server.page.watch import screen

    settings, console = ServerConfig.load(config), Console(highlight=False)
    if once:
        console.print(screen(look(settings)))
        return
    with Live(screen(look(settings)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(screen(look(settings)), refresh=True)
