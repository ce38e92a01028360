"""``stillroom-server init`` and ``site ...``: which hospitals belong to the consortium."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stillroom.common.console import command_group
from stillroom.common.errors import ConfigError, TrustError
from stillroom.server.config import ServerConfig

if TYPE_CHECKING:
    from stillroom.common.enrolment import KeyRequest

site = command_group("Invite, approve, revoke and list hospitals.")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
]
Name = Annotated[str, typer.Argument(help="The site's name.")]
console = Console(highlight=False, soft_wrap=True)


def init(
    folder: Annotated[Path, typer.Option("--dir", help="A new folder for keys and papers.")],
    name: Annotated[str, typer.Option(help="The consortium's name, for people.")],
    host: Annotated[list[str], typer.Option(help="A name or address that sites dial; repeatable.")],
    edge_port: Annotated[int, typer.Option(help="Port for hospitals.")] = 443,
    enrol_port: Annotated[int, typer.Option(help="Port for enrolment.")] = 8443,
    inner_port: Annotated[int, typer.Option(help="Loopback port.")] = 8000,
) -> None:
    """Found a consortium: CA, server certificate, operator key, log key, registry, server.toml."""
    from stillroom.common.consortium import grouped
    from stillroom.server.enrolment import utc_now
    from stillroom.server.foundation import Ports, found

    ports = Ports(edge_port, enrol_port, inner_port)
    digest = found(folder, name, host, utc_now(), ports=ports)
    console.print(f"consortium {name} in {folder}", markup=False)
    console.print(f"CA fingerprint (SHA-256)\n  {grouped(digest)}")
    console.print(
        f"start it with\n  stillroom-server serve --config {folder / 'server.toml'}\n"
        f"keep operator.key and a copy of ca.key where the server is not",
        markup=False,
    )


def renew_certificate(
    config: Config,
    host: Annotated[list[str], typer.Option(help="A name or address that sites dial; repeatable.")],
) -> None:
    """Give the server a new certificate for its present key; acts at its next start."""
    from stillroom.server.enrolment import Authority, utc_now
    from stillroom.server.foundation import renew_server_certificate
    from stillroom.server.logbook import note_act

    settings = ServerConfig.load(config)
    note_act(settings, "renew-certificate")
    renew_server_certificate(Authority.load(settings), settings.tls, host, utc_now())
    console.print("the server has a new certificate; restart it")


@site.command()
def invite(config: Config, name: Name) -> None:
    """Let a hospital ask once, within 72 hours; prints its token, which is shown only now."""
    from stillroom.common.consortium import grouped
    from stillroom.server.enrolment import load_consortium, new_token, open_registry
    from stillroom.server.logbook import noting

    settings = ServerConfig.load(config)
    consortium, token = load_consortium(settings), new_token()
    with open_registry(settings, noting(settings)) as registry:
        registry.invite(name, token, time.time())
    host = _dialled(settings)
    console.print(f"invitation for {name}, valid 72 hours, works once, shown only now")
    console.print(f"token        {token}", markup=False)
    console.print(f"fingerprint  {grouped(consortium.ca_sha256)}")
    port = settings.enrol_port
    if port is None:
        console.print("server.toml opens no enrol_port: let the hospital use --offline, or open it")
        return
    console.print("the hospital runs")
    console.print(
        f"  stillroom-client enrol --server {host}:{port} --token {token} "
        f"--edge {host}:{settings.edge_port} "
        f"--fingerprint {consortium.ca_sha256} --dir ./stillroom",
        markup=False,
    )
    console.print("give the fingerprint by another way than the token (by telephone, on paper)")


@site.command("list")
def list_sites(config: Config) -> None:
    """Show every site: status, certificate, days left, when the edge last saw it."""
    settings = ServerConfig.load(config)
    if settings.registry is None:
        _list_nodes(settings)
        return
    from stillroom.server.enrolment import open_registry

    seen = _seen(settings)
    with open_registry(settings) as registry:
        sites = registry.sites()
    table = Table("site", "status", "certificate", "days left", "last seen", "release")
    now = time.time()
    for entry in sites:
        last, release = seen.get(entry.name, (None, ""))
        left = "" if entry.not_after is None else f"{(entry.not_after - now) / 86400:.1f}"
        table.add_row(
            entry.name,
            entry.status,
            (entry.certificate_sha256 or "")[:16],
            left if entry.status == "enrolled" else "",
            "" if last is None else f"{max(0.0, now - last):.0f} s ago",
            release,
        )
    console.print(table)


@site.command()
def approve(
    config: Config,
    name: Name,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the hospital read out; asked for when left out.")
    ] = None,
    request: Annotated[Path | None, typer.Option(help="A request that came as a file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the kit for the hospital goes.")] = None,
) -> None:
    """Let a hospital in after comparing the short fingerprint by telephone."""
    from stillroom.common.consortium import grouped, ungrouped
    from stillroom.server.enrolment import (
        Authority,
        enrol_by_file,
        kit,
        open_registry,
        utc_now,
        write_public,
    )
    from stillroom.server.enrolment import approve as approve_request
    from stillroom.server.logbook import noting

    settings = ServerConfig.load(config)
    authority = Authority.load(settings)
    if (request is None) != (out is None):
        raise ConfigError("--request and --out belong together.", fix="Give both or neither.")
    with open_registry(settings, noting(settings)) as registry:
        keys = None if request is None else _read_request(request)
        asked = registry.site(name).request_fingerprint if keys is None else keys.check()[1]
        if asked is None:
            raise ConfigError(
                f"{name} has not asked to be enrolled.", fix="See `site list`.", code="STR-108"
            )
        console.print(f"{name} asks with fingerprint  {grouped(asked)}")
        given = fingerprint or typer.prompt("fingerprint the hospital reads out")
        if ungrouped(given, 16) != asked:
            raise TrustError(
                "The request was not made by the hospital you spoke to.",
                fix=f"Do not approve it: run `site revoke {name}` and invite the hospital again.",
                code="STR-212",
            )
        if keys is None:
            issued = approve_request(registry, authority, registry.site(name), utc_now())
        else:
            issued = enrol_by_file(registry, authority, name, keys, utc_now())
    if out is not None:
        write_public(out, kit(settings, name, issued).encode())
        console.print(f"kit in {out}", markup=False)
    console.print(f"{name} is enrolled, certificate {issued.sha256[:16]}")


@site.command()
def revoke(config: Config, name: Name) -> None:
    """Shut a hospital out: from its next request on; open connections are cut."""
    from stillroom.server.enrolment import open_registry
    from stillroom.server.logbook import noting

    settings = ServerConfig.load(config)
    with open_registry(settings, noting(settings)) as registry:
        registry.revoke(name, time.time())
    console.print(f"{name} is revoked")


@site.command()
def renew(config: Config, name: Name) -> None:
    """Have a hospital take a new certificate at its next question, whatever day it is."""
    from stillroom.server.enrolment import open_registry
    from stillroom.server.logbook import note_act

    settings = ServerConfig.load(config)
    with open_registry(settings) as registry:
        registry.site(name)
        note_act(settings, "site renew", name)
        registry.ask_renewal(name, time.time())
    console.print(f"{name} renews at its next question (within minutes while its courier runs)")


def _read_request(path: Path) -> "KeyRequest":
    from stillroom.common.enrolment import KeyRequest

    try:
        return KeyRequest.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read.", fix="Check the path.", code="STR-101"
        ) from error


def _dialled(settings: ServerConfig) -> str:
    """The first name in the server's certificate: what sites are told to dial."""
    from stillroom.common.pki.files import load_certificate
    from stillroom.common.pki.names import server_names

    hosts = server_names(load_certificate(settings.tls.certificate))
    return hosts[0] if hosts else "HOST"


def _seen(settings: ServerConfig) -> dict[str, tuple[float, str]]:
    """When the edge last saw each site, and in which release; empty before its first start."""
    try:
        record = json.loads((settings.state / "edge" / "edge.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        name: (float(traffic["last_seen"]), traffic.get("version") or "")
        for name, traffic in record["sites"].items()
    }


def _list_nodes(settings: ServerConfig) -> None:
    from stillroom.server.operator import Operator

    table = Table("site", "status")
    for name, status in sorted(Operator(settings).nodes().items()):
        table.add_row(name, status)
    console.print(table)
