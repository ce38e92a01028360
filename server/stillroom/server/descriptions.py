"""Every description of the consortium there was, so that sites can follow from one to the next.

A site believes a new description only when an operator whom its present one knows has signed it.
One that was away while two operators came and went needs the description in between; so all are kept
beside ``consortium.json`` and handed out one after another.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillroom.common.consortium import Consortium, read_consortium
from stillroom.common.enrolment import DescriptionAnswer, DescriptionQuestion
from stillroom.common.errors import StillroomError
from stillroom.common.tensorfile import write_durably
from stillroom.server.site_api import Handler
from stillroom.server.store.registry import Registry

log = logging.getLogger(__name__)

FOLDER = "consortium-history"
"""Beside ``consortium.json``; one file for each description, named by its time of issue."""


def keep(path: Path, description: Consortium) -> None:
    """Keep ``description`` in the history beside ``path``, durably."""
    folder = path.parent / FOLDER
    folder.mkdir(exist_ok=True)
    name = f"{int(description.issued_at.timestamp()):012d}.json"
    write_durably(folder / name, description.raw)


def next_after(path: Path, issued: int) -> Consortium | None:
    """The earliest description issued later than ``issued`` seconds; None when there is none.

    Args:
        path: ``consortium.json``; it counts, whether or not its history was kept.
        issued: Seconds since 1970.
    """
    later = (found for found in _all(path) if found.issued_at.timestamp() > issued)
    return min(later, key=lambda found: found.issued_at, default=None)


def _all(path: Path) -> Iterator[Consortium]:
    for file in (path, *sorted((path.parent / FOLDER).glob("*.json"))):
        try:
            yield read_consortium(file.read_bytes())
        except (OSError, StillroomError):
            # A damaged file is nobody's next description; sites would refuse it anyway.
            log.warning("descriptions.unreadable", extra={"note": file.name})


def description(path: Path) -> Handler:
    """The handler of ``/v1/stillroom/consortium``."""

    def handle(site: str, body: bytes, _registry: Registry) -> dict[str, Any]:
        found = next_after(path, DescriptionQuestion.parse(body).after)
        if found is None:
            return DescriptionAnswer().model_dump()
        log.info("descriptions.handed_out", extra={"site": site})
        return DescriptionAnswer(consortium=found.raw.decode("utf-8")).model_dump()

    return handle
