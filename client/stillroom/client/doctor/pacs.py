"""The PACS, where site.toml names one."""

from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check, Finding, skipped


def pacs(exam: Examination) -> Finding:
    """Whether it answers."""
    if getattr(exam.config, "pacs", None) is None:
        return skipped("no [pacs] in site.toml")
    return skipped("this release does not look at it")


CHECKS: tuple[Check[Examination], ...] = (Check("PACS", pacs, ("site.toml",), part="runner"),)
