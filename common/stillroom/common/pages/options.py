"""Options of every ``page`` command."""

from pathlib import Path
from typing import Annotated

import typer

Listen = Annotated[
    str, typer.Option(help="Address and port; other machines only behind a password and TLS.")
]
PasswordFile = Annotated[Path | None, typer.Option(help="Its first line is asked for (mode 0600).")]
PrivateKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
Names = Annotated[
    list[str] | None, typer.Option(help="Another name under which a browser asks for it.")
]
FollowParent = Annotated[int | None, typer.Option("--follow-parent", hidden=True)]
