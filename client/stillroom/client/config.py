"""The one file a hospital edits: ``site.toml``. Keys are documented here."""

import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stillroom.client.intake.rules import LabelRule, PicturesRule, RoiRule, Rules
from stillroom.client.pacs.section import PacsSection
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.settings import Section, checked, read_toml

Port = Annotated[int, Field(ge=1, le=65535)]


class TlsSection(Section):
    """Paths only: a private key never travels through this object."""

    ca: Path
    """The consortium's CA certificate (PEM); no other CA is trusted."""
    certificate: Path
    """This site's certificate (PEM)."""
    private_key: Path
    """Its key (PEM), readable by the service user alone. Made here; never leaves."""


class SiteConfig(Section):
    """Everything one hospital decides for itself.

    Anything the *consortium* decides (labels, rounds, sizes) is in the prepared study; it cannot
    be overridden here.
    """

    site: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
    """The name in this site's certificate."""
    server: Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
    """``host:port`` of the consortium's edge: the only address this site ever dials."""
    data: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folders with scans and labels. Read only."""
    state: Path
    """Catalogue, working copies, pseudo-labels, predictions. On this site's own disk; the runner's
    alone: the courier need not see it."""
    exchange: Path = Path("exchange")
    """The one folder that courier and runner both see: consents, global models, updates."""
    courier_state: Path = Path("courier")
    """The courier's own: the ledger, what is about to leave, what rounding has kept back, what it has
    seen of the consortium's log, and the receipts for what left."""
    study: Path
    """The prepared, signed study this site may consent to; work for any other is refused."""
    consortium: Path | None = None
    """The consortium's description, pinned at enrolment. When left out, ``consortium.json`` beside
    site.toml where it exists. Nothing runs without an operator's signature under the study and
    this site's own consent. The courier replaces it when operators came or went."""
    unsigned_trial: bool = False
    """Work without enrolment, signature and consent, for a trial on one machine. Without effect
    where there is a ``consortium.json``."""
    signing_key: Path = Path("signing.key")
    """This site's signing key (PEM): signs consents, and, in the courier, what this site has seen of
    the consortium's log; a courier that cannot read it looks and vouches for nothing. Made here;
    never leaves. The runner reads only its public half, ``signing.pub`` beside it."""
    tls: TlsSection
    runtime_port: Port | None = None
    """A loopback port between courier and runner in place of the socket in ``exchange``, where that
    folder cannot hold one. The runner then needs ``lo``; with the socket it needs no network."""
    runner_secret: Path = Path("runner.secret")
    """Shared by courier and runner; without it the courier hands out no work. Mode 0600; or 0640, in a
    folder with the set-group-id bit, where the two are accounts of one group."""
    poll_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    """Pause between two looks for work at the server."""
    runner_grace_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """A task waits so long for a runner that is not running; then the server is told STR-511."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for training; all cores when left out."""
    keep_pseudo_labels_days: Annotated[int, Field(ge=1, le=30)] = 7
    labels: dict[str, LabelRule] = Field(default_factory=dict)
    """Where the study's label types are found: one section ``[labels.<label>]`` each."""
    roi: RoiRule | None = None
    """Where this site's own heart masks or boxes are found."""
    pictures: PicturesRule | None = None
    """Which folders of pictures are cases, such as tiles of a microscope slide."""
    pacs: PacsSection | None = None
    """The archive that `data pull` fetches scans from. Courier and runner never dial it."""

    @classmethod
    def load(cls, path: Path) -> "SiteConfig":
        """Read and validate ``path``; relative paths in it are relative to its folder.

        Raises:
            ConfigError: STR-101 unreadable, STR-102 not TOML or a bad key. Names keys, never values: they
                may be secrets.
        """
        config = checked(cls, read_toml(path), what=str(path), page="site-config.md")
        config = config.below(path.resolve().parent)
        if config.pacs is not None and not config.pacs.is_within(config.data):
            raise ConfigError(
                "pacs.folder lies in none of the folders of data.",
                fix="Choose a folder below one of data, or add it to data.",
                code="STR-102",
            )
        return config

    @property
    def rules(self) -> Rules:
        """Labels, heart regions and pictures together."""
        return Rules(labels=self.labels, roi=self.roi, pictures=self.pictures)

    def read_secret(self) -> bytes:
        """The secret that courier and runner share.

        Raises:
            ConfigError: STR-101 when it is absent or empty.
            TrustError: STR-202 when others can read it.
        """
        try:
            seen, secret = self.runner_secret.stat(), self.runner_secret.read_bytes()
            folder = self.runner_secret.parent.stat()
        except OSError as error:
            raise ConfigError(
                "The file runner_secret cannot be read.",
                fix="Make one with `openssl rand -hex 32 > runner.secret && chmod 600 runner.secret`.",
                code="STR-101",
            ) from error
        # A folder with the set-group-id bit was made for two accounts that share it by their group.
        shared = folder.st_mode & stat.S_ISGID and seen.st_gid == folder.st_gid
        if stat.S_IMODE(seen.st_mode) & (0o037 if shared else 0o077):
            raise TrustError(
                "The file runner_secret is readable by others.",
                fix=f"Run `chmod 600 {self.runner_secret}`.",
                code="STR-202",
            )
        if not secret:
            raise ConfigError(
                "The file runner_secret is empty.", fix="Write a secret into it.", code="STR-101"
            )
        return secret

    def below(self, here: Path) -> "SiteConfig":
        """A copy whose relative paths start at ``here``."""
        changes: dict[str, Any] = {
            "data": tuple(here / folder for folder in self.data),
            "state": here / self.state,
            "exchange": here / self.exchange,
            "courier_state": here / self.courier_state,
            "study": here / self.study,
            "consortium": self._pinned(here),
            "signing_key": here / self.signing_key,
            "runner_secret": here / self.runner_secret,
            "tls": TlsSection(
                ca=here / self.tls.ca,
                certificate=here / self.tls.certificate,
                private_key=here / self.tls.private_key,
            ),
            "pacs": None if self.pacs is None else self.pacs.below(here),
        }
        return self.model_copy(update=changes)

    def _pinned(self, here: Path) -> Path | None:
        """A description that is named must be there: a missing one never switches consent off."""
        if self.consortium is not None:
            return here / self.consortium
        return here / "consortium.json" if (here / "consortium.json").exists() else None
