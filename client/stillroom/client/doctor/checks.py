"""Every check, in the order in which a person would look: the first failed line is where to begin."""

from typing import Literal

from stillroom.client.doctor import (
    agreements,
    data,
    folders,
    machine,
    network,
    pacs,
    papers,
    services,
)
from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check

Part = Literal["all", "courier", "runner"]

CHECKS: tuple[Check[Examination], ...] = (
    Check("site.toml", agreements.site_toml),
    *folders.CHECKS,
    *papers.CHECKS,
    *network.CHECKS,
    *papers.DATED,
    *network.ADMITTED,
    *agreements.CHECKS,
    *folders.DISKS,
    *machine.CHECKS,
    *data.CHECKS,
    *pacs.CHECKS,
    *services.CHECKS,
)


def checks_of(part: Part) -> tuple[Check[Examination], ...]:
    """Those that can be made where only one of the two processes is, such as in its container."""
    if part == "all":
        return CHECKS
    return tuple(check for check in CHECKS if check.part in {"", part})
