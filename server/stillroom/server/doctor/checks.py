"""Every check of a server, in the order in which a person would look."""

from stillroom.common.checkup import Check
from stillroom.server.doctor import consortium, machine, papers, running, studies
from stillroom.server.doctor.examination import Examination

CHECKS: tuple[Check[Examination], ...] = (
    papers.SETTINGS,
    machine.CLOCK,
    *papers.CHECKS,
    *machine.CHECKS,
    *running.CHECKS,
    *consortium.CHECKS,
    *studies.CHECKS,
)
