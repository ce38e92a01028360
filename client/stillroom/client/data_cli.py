"""``stillroom-client data``: what this site has, and why some of it cannot be used."""

import typer

data = typer.Typer(no_args_is_help=True, help=__doc__)
