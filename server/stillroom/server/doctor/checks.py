"""Every check of a server, in the order in which a person would look."""

from stillroom.common.checkup import Check
from stillroom.server.doctor import consortium, machine, papers
from stillroom.server.doctor.examination import Examination

CHECKS: tuple[Check[Examination], ...] = (*papers.CHECKS, *machine.CHECKS, *consortium.CHECKS)
