"""The one place that turns an expected failure into words on the screen."""

import sys

import typer
from rich.console import Console

from stillroom.common.errors import StillroomError

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def command_group(text: str | None) -> typer.Typer:
    """A group of commands as all of ours are: help without arguments, no traceback boxes.

    Markdown, so that ``[labels]`` in a help text stays what it is.
    """
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )


def run_cli(app: typer.Typer) -> None:
    """Run ``app``; a ``StillroomError`` prints ``error CODE: what`` and ``fix: ...``.

    The exit status is the error family's (see ``stillroom.common.errors``); 130 after Ctrl-C.
    """
    try:
        app()
    except StillroomError as error:
        stderr.print(f"[bold red]error {error.code}:[/] {_plain(error.what)}")
        stderr.print(f"[bold]fix:[/] {_plain(error.fix)}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        stderr.print("stopped.")
        sys.exit(130)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
