"""``stillroom-server``: the commands a consortium's operator runs. Thin: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from stillroom.common.console import command_group, run_cli
from stillroom.common.errors import ConfigError
from stillroom.server.config import ServerConfig
from stillroom.server.doctor_cli import doctor
from stillroom.server.enrolment_cli import init, renew_certificate, site
from stillroom.server.operators_cli import operator
from stillroom.server.page_cli import page, watch
from stillroom.server.run_cli import require_empty, run

app = command_group(__doc__)
study = command_group("Check and prepare study files.")
release = command_group("Publish what a study has learned.")
for name, group in (
    ("study", study),
    ("site", site),
    ("operator", operator),
    ("run", run),
    ("release", release),
):
    app.add_typer(group, name=name)
app.command()(init)
app.command()(doctor)
app.command()(renew_certificate)
app.command()(page)
app.command()(watch)

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The operator's server.toml.", show_default=False)
]
FollowParent = Annotated[
    int | None,
    typer.Option(
        "--follow-parent", hidden=True, help="Stop when this process is our parent no more."
    ),
]
console = Console(highlight=False)


@app.command()
def serve(config: Config, follow_parent: FollowParent = None) -> None:
    """Run the SuperLink behind its two listeners until stopped."""
    from stillroom.common.lifetime import follow
    from stillroom.common.logs import to_stderr
    from stillroom.server.superlink import serve as serve_superlink

    to_stderr()
    if follow_parent is not None:
        follow(follow_parent)
    settings = ServerConfig.load(config)
    door = f"{settings.edge_host}:{settings.enrol_port}" if settings.enrol_port else "closed"
    console.print(
        f"edge {settings.edge_host}:{settings.edge_port} (mutual TLS 1.3, sites only), "
        f"enrolment {door}, inner {settings.inner_address} (loopback)"
    )
    serve_superlink(settings)


@app.command()
def execute(config: Config, follow_parent: FollowParent = None) -> None:
    """Run Flower's SuperExec, which starts the ServerApp of each study."""
    from stillroom.common.lifetime import follow
    from stillroom.common.logs import to_stderr
    from stillroom.server.superexec import execute as execute_tasks

    to_stderr()
    if follow_parent is not None:
        follow(follow_parent)
    execute_tasks(ServerConfig.load(config))


@app.command()
def health(config: Config) -> None:
    """Say whether `serve` answers; for service managers, which ask every minute."""
    from stillroom.server.health import require_serving

    require_serving(ServerConfig.load(config))
    console.print("serve: alive")


@study.command()
def check(
    file: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    drawing: Annotated[
        Path | None, typer.Option(help="Also write the stages and their lines as SVG.")
    ] = None,
) -> None:
    """Check a study file, draw its stages and show what each exchanges; changes nothing."""
    import tempfile

    from stillroom.server.study_drawing import as_svg, as_text
    from stillroom.server.study_grid import too_coarse
    from stillroom.server.workstation import COLUMNS, exchange_of, prepare

    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(file, Path(scratch))
    table = Table("stage", "recipe", "rounds", "who", *COLUMNS)
    for stage in prepared.study.stage:
        table.add_row(
            stage.name,
            stage.recipe,
            str(stage.rounds),
            f"owners of {stage.label}" if stage.label is not None else "every training site",
            *exchange_of(prepared, stage),
        )
    console.print(table)
    console.print(as_text(prepared.study), markup=False)
    if drawing is not None:
        sizes = {s.name: exchange_of(prepared, s)[1] for s in prepared.study.stage if s.exchanges}
        drawing.write_text(as_svg(prepared.study, sizes), "utf-8")
        console.print(f"drawn in {drawing}")
    for line in too_coarse(prepared.study):
        console.print(f"warning: {line}", markup=False)
    console.print(f"{file}: ok, study {prepared.study.study.name}")


@app.command()
def recipes() -> None:
    """List the recipes that are installed, with their options."""
    from stillroom.common.recipes.registry import declarations

    table = Table("recipe", "what it does", "takes", "leaves", "options", "source")
    for one in declarations().values():
        fields = one.options.model_fields
        table.add_row(
            one.name,
            one.summary,
            ", ".join(one.takes()) or "",
            one.produces or "counts only",
            "\n".join(
                f"{name} = {json.dumps(field.get_default(call_default_factory=True), default=str)}"
                for name, field in fields.items()
            ),
            one.source,
        )
    console.print(table)


@study.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    stage: Annotated[str, typer.Option(help="Whose option changes.", show_default=False)],
    option: Annotated[str, typer.Option(help="A key of its options, e.g. timestep.")],
    values: Annotated[str, typer.Option(help="Its values, with commas: 0,25,50.")],
    out: Annotated[Path, typer.Option(help="Folder for the new study files.")] = Path(),
) -> None:
    """Write one study file per value of one option; each is prepared and run by itself."""
    from stillroom.server.study_sweep import sweep, values_of

    for path in sweep(file, stage=stage, option=option, values=values_of(values), out=out):
        console.print(path, markup=False)


@study.command("prepare")
def prepare_command(
    file: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared study.")],
) -> None:
    """Freeze a study with the weights every stage starts from (needs torch)."""
    from stillroom.server.workstation import prepare

    require_empty(out)
    prepared = prepare(file, out)
    console.print(f"study {prepared.study.study.name}\ndigest {prepared.digest}\nin {out}")


@study.command()
def sign(
    folder: Annotated[Path, typer.Argument(help="A prepared study.")],
    key: Annotated[Path, typer.Option(help="Your operator key.", show_default=False)],
) -> None:
    """Sign a prepared study; sites take no other. Do it where the operator key is kept."""
    from stillroom.common.consortium import grouped
    from stillroom.common.pki.files import load_signing_key
    from stillroom.common.signed_study import sign_study

    signature = sign_study(folder, load_signing_key(key))
    console.print(f"study {grouped(signature.study)}\nsigned with key {signature.key_id}")


@site.command()
def register(
    config: Config,
    certificate: Annotated[Path, typer.Argument(help="The site's certificate (PEM).")],
) -> None:
    """Let a site in by its certificate; its public key becomes its Flower node key."""
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives import serialization

    from stillroom.common.pki.files import load_certificate
    from stillroom.common.pki.verify import verify_site
    from stillroom.server.operator import Operator

    settings = ServerConfig.load(config)
    shown = load_certificate(certificate)
    identity = verify_site(shown, load_certificate(settings.tls.ca), datetime.now(UTC))
    key = shown.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    operator = Operator(settings)
    operator.register(identity.name, key)
    console.print(f"{identity.name} registered, certificate {identity.certificate_sha256[:16]}")


@release.command("build")
def build(
    prepared: Annotated[Path, typer.Argument(help="The prepared study.")],
    folder: Annotated[Path, typer.Argument(help="The run's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the release.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="server.toml: enters the release into the log."),
    ] = None,
    denoiser: Annotated[
        list[str] | None, typer.Option(help="A stage whose generative model is released too.")
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="A site's memorisation report of it.")
    ] = None,
) -> None:
    """Build weights, MONAI Bundle, model card and log proof of a finished run (needs torch)."""
    from stillroom.server.logbook import open_logbook
    from stillroom.server.release_proof import prove_release
    from stillroom.server.workstation import release as build_release

    require_empty(out)
    book = None if config is None else open_logbook(ServerConfig.load(config))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    if result["status"] != "completed":
        raise ConfigError("The run did not complete.", fix="See its result.json.")
    build_release(prepared, folder, out, run=result, denoisers=denoiser or (), reports=report or ())
    if book is None:
        console.print("no --config, or no log: the release carries no proof that it is in one")
    else:
        index = prove_release(book, out, result["study_digest"])
        console.print(f"entry {index} of the log; its proof is in {out / 'proof'}")
    if not result["complete_participation"]:
        console.print("a result from a subset of the sites; the model card says so")
    console.print(f"release in {out}")


def main() -> None:
    """Entry point: an expected failure prints its code and fix, and sets the exit status."""
    run_cli(app)


if __name__ == "__main__":
    main()
