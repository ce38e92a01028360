"""``[pacs]`` of ``site.toml``: which archive `data pull` asks, how fast, when, and what it keeps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from stillroom.client.pacs.hours import Window
from stillroom.common.settings import Section

Port = Annotated[int, Field(ge=1, le=65535)]
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""PS3.5 table 6.2-1: 1 to 16 printable characters, no backslash, no blank at the ends."""

Paths = TypeVar("Paths", bound=Section)


class WebSection(Section):
    """A PACS that speaks DICOMweb: QIDO-RS to ask, WADO-RS to fetch. A redirect is not followed."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")]
    """Root of the service, without user or password, such as ``https://pacs.example/dicom-web``."""
    user: str | None = None
    """User name of HTTP basic authentication; asks for ``password_file``."""
    password_file: Path | None = None
    """One line, mode 0600."""
    headers_file: Path | None = None
    """Further headers, ``Name: value`` a line, such as ``Authorization: Bearer ...``; mode 0600."""
    ca: Path | None = None
    """CA certificates (PEM) that the PACS's certificate is checked against, in place of the system's."""
    certificate: Path | None = None
    """This site's certificate (PEM) for the PACS, where it asks for one; asks for ``private_key``."""
    private_key: Path | None = None
    """Its key (PEM), mode 0600. Neither is the consortium's."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long the PACS may say nothing."""

    @model_validator(mode="after")
    def _pairs(self) -> "WebSection":
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        return self


class DimseSection(Section):
    """A PACS that speaks classic DICOM: C-FIND to ask, C-MOVE or C-GET to fetch."""

    host: Annotated[str, Field(min_length=1)]
    port: Port = 104
    called_ae: AeTitle
    """The PACS's AE title."""
    calling_ae: AeTitle
    """This site's AE title, as the PACS knows it."""
    retrieve: Literal["move", "get"] = "move"
    """``move``: the PACS connects to ``store_port`` here. ``get``: scans come back over the connection
    that this site opened, where the PACS offers it; no port is opened."""
    listen: str = "0.0.0.0"  # noqa: S104  (a PACS is another machine; the firewall is the hospital's)
    """Address on which ``store_port`` is opened, while a pull runs and no longer."""
    store_port: Port = 11112
    """Where the PACS delivers to, with ``move``."""
    tls: bool = False
    """Speak TLS to the PACS and on ``store_port``."""
    ca: Path | None = None
    """CA certificates (PEM) that the PACS's certificate is checked against, in place of the system's."""
    certificate: Path | None = None
    """This site's certificate (PEM) for the PACS; asks for ``private_key``. Needed for ``move``
    with ``tls``."""
    private_key: Path | None = None
    """Its key (PEM), mode 0600. Neither is the consortium's."""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """How long the PACS may say nothing."""

    @model_validator(mode="after")
    def _pairs(self) -> "DimseSection":
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        if self.tls and self.retrieve == "move" and self.certificate is None:
            raise ValueError("move over tls needs certificate and private_key for store_port")
        return self


class PacsSection(Section):
    """The archive that ``stillroom-client data pull`` fetches from: either ``web`` or ``dimse``."""

    web: WebSection | None = None
    dimse: DimseSection | None = None
    folder: Path
    """Where pulled scans lie; in one of ``data``. The only folder there that is ever written."""
    state: Path = Path("pull")
    """The journal of what was asked and is complete, and the key of names and identifiers. Belongs to
    whoever runs `data pull`; without it everything is fetched anew, under other names."""
    labels: bool = False
    """Fetch segmentations (SEG) and structure sets (RTSTRUCT) of the studies, too."""
    structures: tuple[str, ...] = ()
    """Names of segments and structures that are kept, besides those in ``[labels]`` and ``[roi]``. Any
    other name becomes ``structure-<number>``: people write patients' names there."""
    hours: str | None = None
    """When the PACS may be asked, such as ``"20:00-06:00"``, in this machine's local time. Outside of it
    a pull waits; a series that has begun is finished. Always, when left out."""
    most_mib_per_s: Annotated[float, Field(gt=0)] | None = None
    """Most MiB a second, on average over a pull; no limit when left out."""
    most_studies: Annotated[int, Field(ge=1)] = 1000
    """A query that matches more is refused. Lists may be longer."""
    keep_free_mib: Annotated[int, Field(ge=0)] = 2048
    """A pull stops before less than this is free where ``folder`` lies."""
    deidentify: bool = True
    """Take identity out of every object before it is written (DICOM PS3.15 Annex E, basic profile).
    ``false`` writes what the PACS sent: only for a folder that is protected like the PACS."""
    uids: Literal["replace", "retain"] = "replace"
    """``retain`` keeps UIDs (option 113110), for labels outside of the PACS that name scans by UID."""

    @field_validator("hours")
    @classmethod
    def _window(cls, value: str | None) -> str | None:
        return None if value is None else str(Window.parse(value))

    @model_validator(mode="after")
    def _one_way(self) -> "PacsSection":
        if (self.web is None) == (self.dimse is None):
            raise ValueError("give either web or dimse")
        return self

    def is_within(self, folders: Iterable[Path]) -> bool:
        """Whether ``folder`` is, or lies in, one of ``folders``."""
        own = self.folder.resolve()
        return any(own.is_relative_to(folder.resolve()) for folder in folders)

    def below(self, here: Path) -> "PacsSection":
        """A copy whose relative paths start at ``here``."""
        return _below(self, here).model_copy(
            update={
                "web": None if self.web is None else _below(self.web, here),
                "dimse": None if self.dimse is None else _below(self.dimse, here),
            }
        )


def _below(section: Paths, here: Path) -> Paths:
    paths: dict[str, Any] = {
        name: here / value for name, value in section if isinstance(value, Path)
    }
    return section.model_copy(update=paths)
