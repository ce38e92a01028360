"""``stillroom-client courier`` and ``runner``: the two processes of a hospital."""

import os
from pathlib import Path
from typing import Annotated

import typer

from stillroom.client.service_logs import COURIER_LOG, RUNNER_LOG

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
]
FollowParent = Annotated[
    int | None,
    typer.Option(
        "--follow-parent", hidden=True, help="Stop when this process is our parent no more."
    ),
]


def courier(config: Config, follow_parent: FollowParent = None) -> None:
    """Carry messages between the consortium and the runner (network, no patient data)."""
    from stillroom.client.agreement import Agreement
    from stillroom.client.config import SiteConfig
    from stillroom.client.connection import require_usable_proxy
    from stillroom.client.courier import CourierSettings, run_courier
    from stillroom.client.descriptions import Descriptions
    from stillroom.client.papers import client_context
    from stillroom.common.lifetime import follow, stop_on_signals
    from stillroom.common.logs import also_to, to_stderr

    to_stderr()
    stop = stop_on_signals()
    if follow_parent is not None:
        follow(follow_parent)
    site = SiteConfig.load(config)
    also_to(site.courier_state / COURIER_LOG)
    require_usable_proxy(site.server)
    if site.consortium is not None:
        # First of all: the study may be signed by an operator who came while this site was away.
        Descriptions(site.server, site.consortium, lambda: client_context(site.tls)).ask_once()
    run_courier(
        CourierSettings(
            server=site.server,
            ca=site.tls.ca,
            certificate=site.tls.certificate,
            private_key=site.tls.private_key,
            runtime_port=site.runtime_port,
            secret=site.read_secret(),
            agreement=Agreement.open(site),
            state=site.courier_state,
            exchange=site.exchange,
            study=site.study,
            consortium=site.consortium,
            signing_key=site.signing_key,
            runner_grace_s=site.runner_grace_s,
            poll_s=site.poll_s,
        ),
        stop,
    )


def runner(config: Config, follow_parent: FollowParent = None) -> None:
    """Do the study's work on this site's data (GPU; needs no network)."""
    from stillroom.client.config import SiteConfig
    from stillroom.common.lifetime import follow, leave_within, stop_on_signals
    from stillroom.common.logs import also_to, to_stderr

    to_stderr()
    stop = stop_on_signals()
    leave_within(stop, 1.5)
    if follow_parent is not None:
        follow(follow_parent)
    site = SiteConfig.load(config)
    also_to(site.state / RUNNER_LOG)
    if site.threads is not None:
        # Read by the numerical libraries when they are first imported, which is below.
        os.environ["OMP_NUM_THREADS"] = str(site.threads)

    from stillroom.client.runner import RunnerSettings, run_runner

    run_runner(RunnerSettings(config.resolve(), site.runtime_port, site.read_secret()), stop)


def health(
    which: Annotated[str, typer.Argument(help="courier or runner.")], config: Config
) -> None:
    """Say whether one of the two processes lives; for service managers, which ask every minute."""
    from stillroom.client.config import SiteConfig
    from stillroom.client.health import require_courier, require_runner
    from stillroom.common.errors import ConfigError

    site = SiteConfig.load(config)
    checks = {"courier": require_courier, "runner": require_runner}
    if which not in checks:
        raise ConfigError("There is no such process.", fix="Name courier or runner.")
    checks[which](site)
    print(f"{which}: alive")
