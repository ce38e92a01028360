"""From ``[pacs]`` to an archive one can ask, and whether it answers at all."""

import logging
from dataclasses import dataclass

from stillroom.client.config import SiteConfig
from stillroom.client.pacs.archive import Archive
from stillroom.client.pacs.section import PacsSection
from stillroom.common.errors import StillroomError

QUIET = ("pydicom", "pynetdicom", "dicomweb_client", "urllib3")
"""Libraries that log queries, UIDs and whole data sets. A log may be sent to somebody."""


@dataclass(frozen=True, slots=True)
class PacsCheck:
    """Whether the PACS answers to this site.

    Attributes:
        reachable: It said hello, and would be asked.
        code: What is wrong, a key of ``errors.CODES``; empty when nothing is.
        what: In one sentence, without anything a PACS sent.
        fix: What to do, in one sentence; empty when nothing is wrong.
    """

    reachable: bool
    code: str
    what: str
    fix: str


def check_pacs(config: SiteConfig) -> PacsCheck | None:
    """Ask the PACS of ``[pacs]`` for a sign of life: C-ECHO, or a QIDO-RS search for one study.

    None where site.toml has no ``[pacs]``. Raises nothing of what can be expected.
    """
    if config.pacs is None:
        return None
    try:
        archive = open_archive(config.pacs)
        try:
            archive.check()
        finally:
            archive.close()
    except StillroomError as error:
        return PacsCheck(reachable=False, code=error.code, what=error.what, fix=error.fix)
    way = "DICOMweb" if config.pacs.web is not None else "C-ECHO"
    return PacsCheck(reachable=True, code="", what=f"The PACS answers ({way}).", fix="")


def open_archive(pacs: PacsSection) -> Archive:
    """The archive behind ``[pacs.web]`` or ``[pacs.dimse]``; dials nothing yet.

    Raises:
        ConfigError: A file it names cannot be read (STR-101).
        TrustError: Others can read a secret (STR-202).
    """
    _silence()
    if pacs.web is not None:
        from stillroom.client.pacs.web import WebArchive  # noqa: PLC0415  (one of two libraries)

        return WebArchive(pacs.web)
    if pacs.dimse is not None:
        from stillroom.client.pacs.dimse import DimseArchive  # noqa: PLC0415

        return DimseArchive(pacs.dimse)
    raise ValueError("a PacsSection has one of web and dimse")


def _silence() -> None:
    """No line of these libraries reaches a handler, whatever the process logs elsewhere."""
    for name in QUIET:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL)
