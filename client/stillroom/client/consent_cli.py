"""``stillroom-client consent``: what a study would do here, and this site's signed yes or no."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.common.console import command_group

if TYPE_CHECKING:
    from stillroom.client.config import SiteConfig
    from stillroom.common.signed_study import SignedStudy

consent = command_group(__doc__)

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The site's site.toml.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]


@consent.command()
def show(config: Config) -> None:
    """Explain the study in plain words: what is learned, from what, what leaves, for whom."""
    site, signed = _open(config)
    typer.echo(text_of(site, signed), nl=False)


@consent.command()
def give(
    config: Config,
    days: Annotated[int, typer.Option(min=1, max=1096, help="How long it lasts.")] = 180,
    yes: Yes = False,
) -> None:
    """Sign exactly this study. The runner then works on it, and on nothing else."""
    from datetime import UTC, datetime

    from stillroom.client.consents import ConsentBook, give_consent
    from stillroom.common.pki.files import load_signing_key

    site, signed = _open(config)
    key = load_signing_key(site.signing_key)
    if not yes:
        typer.echo(text_of(site, signed))
        typer.confirm(f"Does {site.site} consent to this study for {days} days?", abort=True)
    digest = signed.prepared.digest
    record = give_consent(
        ConsentBook.below(site.exchange), key, study=digest, site=site.site, days=days
    )
    until = datetime.fromtimestamp(record.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    typer.echo(f"{site.site} consents to study {digest[:16]} until {until}.")
    typer.echo("Take it back at any moment with `stillroom-client consent withdraw`.")


@consent.command()
def withdraw(config: Config, yes: Yes = False) -> None:
    """Take the consent back. The runner stops at its next batch; nothing more leaves."""
    from stillroom.client.config import SiteConfig
    from stillroom.client.consents import ConsentBook, withdraw_consent
    from stillroom.common.pki.files import load_signing_key
    from stillroom.common.study import PreparedStudy

    site = SiteConfig.load(config)
    # Whoever signed the study: saying no must work even when it could not be consented to.
    digest = PreparedStudy.load(site.study).digest
    if not yes:
        typer.confirm(f"Does {site.site} leave study {digest[:16]}?", abort=True)
    key = load_signing_key(site.signing_key)
    withdraw_consent(ConsentBook.below(site.exchange), key, study=digest, site=site.site)
    typer.echo(f"{site.site} has left study {digest[:16]}. The runner stops at its next batch.")


def _open(config: Path) -> tuple["SiteConfig", "SignedStudy"]:
    """The site and its study, after checking who signed it.

    Raises:
        TrustError: STR-209 among others; a study that cannot be trusted is not even shown.
    """
    from stillroom.client.config import SiteConfig
    from stillroom.client.pinning import pinned
    from stillroom.common.errors import TrustError
    from stillroom.common.signed_study import SignedStudy

    site = SiteConfig.load(config)
    if site.consortium is None:
        raise TrustError(
            "This site has joined no consortium, so nobody's signature can be checked.",
            fix="Enrol it first with `stillroom-client enrol`.",
            code="STR-209",
        )
    return site, SignedStudy.load(site.study, pinned(site.consortium).operator_keys)


def text_of(site: "SiteConfig", signed: "SignedStudy") -> str:
    """The study in plain words, with this site's own numbers."""
    from stillroom.client.consent_text import SiteFacts, describe
    from stillroom.client.consents import ConsentBook, ConsentCheck
    from stillroom.client.local_counts import local_counts
    from stillroom.client.pinning import pinned
    from stillroom.common.pki.files import load_verifying_key

    if site.consortium is None:
        raise ValueError("no consortium")
    consortium = pinned(site.consortium)
    digest = signed.prepared.digest
    check = ConsentCheck(
        ConsentBook.below(site.exchange), digest, site.site, load_verifying_key(site.signing_key)
    )
    facts = SiteFacts(
        site=site.site,
        server=site.server,
        consortium=consortium.name,
        operator=consortium.operators[signed.operator].name,
        counts=local_counts(site.state, signed.prepared),
        standing=check.standing(),
    )
    return describe(signed.prepared, facts)
