"""``stillroom-server operator ...``: whose signature under a study counts."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stillroom.common.console import command_group
from stillroom.common.errors import ConfigError
from stillroom.server.config import ServerConfig

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

operator = command_group("Whose signature under a study counts.")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
]
SignerKey = Annotated[
    Path | None, typer.Option(help="A present operator's private key; operator.key by default.")
]
console = Console(highlight=False, soft_wrap=True)


@operator.command()
def add(
    config: Config,
    name: Annotated[str, typer.Argument(help="For people.")],
    public_key: Annotated[str, typer.Option(help="Ed25519 public key, 64 hex digits.")],
    key: SignerKey = None,
) -> None:
    """Let another person's key sign studies; writes the consortium's description anew."""
    from stillroom.common.consortium import ungrouped
    from stillroom.common.pki.files import load_signing_key
    from stillroom.common.signing import key_id, public_key_from_hex
    from stillroom.server.enrolment import open_registry
    from stillroom.server.logbook import note_act
    from stillroom.server.store.members import OperatorRecord

    settings, hexadecimal = ServerConfig.load(config), ungrouped(public_key)
    signer = load_signing_key(key or config.resolve().parent / "operator.key")
    _refuse_foreign_signer(settings, signer, leaving="")
    note_act(settings, "operator add", name)
    with open_registry(settings) as registry:
        record = OperatorRecord(key_id(public_key_from_hex(hexadecimal)), name, hexadecimal)
        registry.add_operator(record, time.time())
    _describe_again(config, signer)
    console.print(f"operator {name}, key {record.key_id}", markup=False)


@operator.command()
def remove(
    config: Config,
    name: Annotated[str, typer.Argument(help="For people.")],
    key: SignerKey = None,
) -> None:
    """Take an operator out of office; give enrolled sites the new consortium.json yourself."""
    from stillroom.common.pki.files import load_signing_key
    from stillroom.server.enrolment import open_registry
    from stillroom.server.logbook import note_act

    settings = ServerConfig.load(config)
    signer = load_signing_key(key or config.resolve().parent / "operator.key")
    _refuse_foreign_signer(settings, signer, leaving=name)
    note_act(settings, "operator remove", name)
    with open_registry(settings) as registry:
        registry.remove_operator(name, time.time())
    _describe_again(config, signer)
    console.print(f"operator {name} removed", markup=False)


@operator.command("list")
def list_operators(config: Config) -> None:
    """Show whose signatures count."""
    from stillroom.server.enrolment import open_registry

    table = Table("operator", "key", "public key")
    with open_registry(ServerConfig.load(config)) as registry:
        for entry in registry.operators():
            table.add_row(entry.name, entry.key_id, entry.public_key)
    console.print(table)


def _refuse_foreign_signer(
    settings: ServerConfig, signer: "Ed25519PrivateKey", *, leaving: str
) -> None:
    """Before the registry changes: a description that nobody may sign would leave the two apart.

    Raises:
        ConfigError: STR-108, the signing key is not that of an operator who stays.
    """
    from stillroom.common.signing import key_id
    from stillroom.server.enrolment import open_registry

    with open_registry(settings) as registry:
        staying = {entry.key_id for entry in registry.operators() if entry.name != leaving}
    if key_id(signer.public_key()) not in staying:
        raise ConfigError(
            "The key that should sign the new description is not that of an operator who stays.",
            fix="Name the key of another operator with --key.",
            code="STR-108",
        )


def _describe_again(config: Path, signer: "Ed25519PrivateKey") -> None:
    from stillroom.server.enrolment import load_consortium, open_registry, utc_now
    from stillroom.server.foundation import Papers, describe_again
    from stillroom.server.logbook import noting

    settings = ServerConfig.load(config)
    with open_registry(settings) as registry:
        name = load_consortium(settings).name
        describe_again(
            Papers(config.resolve().parent),
            registry,
            name,
            signer,
            utc_now(),
            note=noting(settings),
        )
