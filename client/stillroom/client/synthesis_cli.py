"""``stillroom-client synthesise``: look at what a generative model would give away, on site."""

from pathlib import Path
from typing import Annotated

import typer

from stillroom.common.errors import ConfigError


def synthesise(
    config: Annotated[Path, typer.Option("--config", "-c", help="This site's site.toml.")],
    stage: Annotated[str, typer.Option(help="The stage that left the denoiser.")],
    model: Annotated[Path, typer.Option(help="Its model, a file called SHA256.safetensors.")],
    encoder_stage: Annotated[str, typer.Option(help="A stage that left a teacher or student.")],
    encoder: Annotated[Path, typer.Option(help="Its model, a file called SHA256.safetensors.")],
    count: Annotated[int, typer.Option(min=2, help="Slices to draw.")] = 64,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps of the sampler.")] = 50,
) -> None:
    """Draw slices from a diffusion model and check whether it repeats this site's scans.

    Slices and report are written below this site's state and never leave by themselves.
    """
    from stillroom.client.site import Site
    from stillroom.client.synthesis_report import Drawing, synthesise_at

    site = Site.open(config.resolve())
    for path in (model, encoder):
        if not path.is_file() or len(path.stem) != 64:
            raise ConfigError(
                f"{path} is no model.",
                fix="Name a file called <sha256>.safetensors.",
                code="STR-101",
            )
    made = synthesise_at(
        site.store(),
        site.prepared,
        site=site.config.site,
        denoiser=(stage, model),
        encoder=(encoder_stage, encoder),
        drawing=Drawing(count, steps),
        out=site.folder / "synthetic",
        device=site.config.device,
    )
    typer.echo(
        f"{made.report.samples} slices against {made.report.training_slices} of this site: "
        f"{made.report.copies_by_voxels:.1%} near-copies by voxels, "
        f"{made.report.copies_by_features:.1%} by features, FID-like {made.report.fid_like:.3g}\n"
        f"{'passed' if made.report.passed else 'NOT passed: the model must not be released'}\n"
        f"report in {made.path}"
    )
    raise typer.Exit(0 if made.report.passed else 1)
