"""``stillroom-client``: the commands hospital IT runs. Thin: parse, call, print."""

import typer

from stillroom.client.data_cli import data
from stillroom.common.console import run_cli

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data, name="data")


def main() -> None:
    """Entry point: an expected failure prints its code and fix, and sets the exit status."""
    run_cli(app)
