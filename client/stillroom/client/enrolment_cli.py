"""``stillroom-client enrol``: join a consortium, by network or by file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from stillroom.common.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.client.site_file import SiteForm

console = Console(highlight=False, soft_wrap=True)


def enrol(
    folder: Annotated[Path, typer.Option("--dir", help="Where keys and papers go.")],
    server: Annotated[str | None, typer.Option(help="HOST:PORT of the enrolment listener.")] = None,
    token: Annotated[str | None, typer.Option(help="From the operator; works once.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The CA's fingerprint, from the operator by another way.")
    ] = None,
    edge: Annotated[
        str | None, typer.Option(help="HOST:PORT of the edge, for site.toml; port 443 by default.")
    ] = None,
    offline: Annotated[
        Path | None, typer.Option(help="Write the request into this file; no network.")
    ] = None,
    offline_finish: Annotated[
        Path | None, typer.Option(help="Read the operator's kit from this file; no network.")
    ] = None,
) -> None:
    """Make this site's keys here, have them certified, and write a first site.toml."""
    from stillroom.client.enrolment import Keys, write_request
    from stillroom.common.consortium import grouped, ungrouped

    if offline is not None:
        short = write_request(offline, Keys.make_or_load(folder))
        console.print(f"request in {offline}: send it to the operator", markup=False)
        console.print(f"read out this fingerprint by telephone  {grouped(short)}")
        return
    if fingerprint is None:
        raise ConfigError(
            "The CA's fingerprint is missing.", fix="Give --fingerprint; ask the operator for it."
        )
    expected = ungrouped(fingerprint)
    site: str | None
    if offline_finish is not None:
        site = finish(folder, offline_finish, expected, edge or "EDGE-HOST:443")
    elif server is None or token is None:
        raise ConfigError(
            "--server and --token are missing.", fix="Copy the command the operator gave you."
        )
    else:
        site = online(folder, server, token, expected, edge or f"{server.rpartition(':')[0]}:443")
    if site is None:
        console.print("not approved yet; run the same command again to go on waiting")
        raise typer.Exit(0)
    console.print(f"enrolled as {site}; edit {folder / 'site.toml'}", markup=False)


def finish(folder: Path, path: Path, expected: str, edge: "SiteForm | str") -> str:
    """Put the operator's kit in place; returns the site's name."""
    from stillroom.client.enrolment import finish_offline
    from stillroom.common.enrolment import Kit

    try:
        kit = Kit.parse(path.read_bytes(), most=512 * 1024)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read.", fix="Check the path.", code="STR-101"
        ) from error
    return finish_offline(folder, kit, expected, edge)


def online(
    folder: Path, server: str, token: str, expected: str, edge: "SiteForm | str"
) -> str | None:
    """Ask to be enrolled and wait; returns the site's name, None when stopped before that."""
    from stillroom.client.connection import require_usable_proxy
    from stillroom.client.enrolment import Door, Keys, enrol_online
    from stillroom.common.consortium import grouped
    from stillroom.common.lifetime import stop_on_signals

    require_usable_proxy(server)

    def tell(site: str, short: str) -> None:
        console.print(f"requested as {site}; read out this fingerprint by telephone")
        console.print(f"  {grouped(short)}")
        console.print("waiting for the operator's approval (Ctrl-C: stop; run again to resume)")

    door = Door(server, expected)
    try:
        keys = Keys.make_or_load(folder)
        return enrol_online(door, token, keys, folder, edge, tell, stop_on_signals())
    finally:
        door.close()
