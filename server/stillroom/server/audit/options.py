"""What ``verify`` and ``report`` are both told: which log, and everything that it is held against."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stillroom.server.audit.reading import Given

Log = Annotated[Path, typer.Argument(help="Folder with `checkpoint` and `tile/`.")]


def _given(  # an auditor's options, and their texts
    *,
    log: Log,
    consortium: Annotated[
        Path,
        typer.Option(
            "--consortium", help="consortium.json: whose log this is.", show_default=False
        ),
    ],
    release: Annotated[Path | None, typer.Option("--release", help="Folder of a release.")] = None,
    ledger: Annotated[
        list[str] | None, typer.Option("--ledger", help="A site's ledger: FILE or SITE=FILE.")
    ] = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option("--seen", help="A checkpoint that somebody kept, e.g. a site."),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option("--witness", help="A site's signing key as it says itself: SITE=HEX."),
    ] = None,
    quorum: Annotated[
        int, typer.Option("--quorum", min=0, help="Cosignatures that you demand.")
    ] = 0,
    run: Annotated[
        str | None, typer.Option("--run", help="Look at the rounds of this run only.")
    ] = None,
) -> Given:
    return Given(log, consortium, release, ledger or (), seen or (), witness or (), quorum, run)


def told_what_to_audit(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, whose argument ``given`` is replaced by the options above, followed by its own."""
    shared = inspect.signature(_given).parameters
    own = inspect.signature(command).parameters

    @functools.wraps(command)
    def told(**options: object) -> None:
        given = _given(**{name: options.pop(name) for name in shared})  # type: ignore[arg-type]
        command(given, **options)

    parameters = [*shared.values(), *(p for name, p in own.items() if name != "given")]
    told.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    told.__annotations__ = {p.name: p.annotation for p in parameters}
    return told
