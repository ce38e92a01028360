"""``stillroom-client page``: this site in a browser on this machine, with its metrics."""

from pathlib import Path
from typing import Annotated

import typer

from stillroom.common.pages.options import FollowParent, Listen, Names, PasswordFile, PrivateKey

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
]


def page(
    config: Config,
    listen: Listen = "127.0.0.1:8480",
    password_file: PasswordFile = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM, for TLS.")] = None,
    private_key: PrivateKey = None,
    name: Names = None,
    follow_parent: FollowParent = None,
) -> None:
    """Show whether this site works, what it learns and what has left; with a button to pause it.

    Reads the courier's files and never a scan. Its metrics are at /metrics.
    """
    from stillroom.client.config import SiteConfig
    from stillroom.client.page.application import site_page
    from stillroom.common.lifetime import follow
    from stillroom.common.pages.listening import listening
    from stillroom.common.pages.serving import serve

    if follow_parent is not None:
        follow(follow_parent)
    where = listening(
        listen,
        names=name,
        password_file=password_file,
        certificate=certificate,
        private_key=private_key,
    )
    serve(site_page(SiteConfig.load(config), where), where, told=typer.echo)
