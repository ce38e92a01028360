"""The PACS, where site.toml names one: whether it answers to this site."""

from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check, Finding, failed, ok, skipped


def pacs(exam: Examination) -> Finding:
    """C-ECHO, or a QIDO-RS search for one study."""
    if exam.config.pacs is None:
        return skipped("no [pacs] in site.toml")
    from stillroom.client.pacs.opening import check_pacs  # noqa: PLC0415  # DICOM libraries

    found = check_pacs(exam.config)
    if found is None:
        return skipped("no [pacs] in site.toml")
    if found.reachable:
        return ok(found.what, told="answers")
    return failed(found.what, found.fix, found.code, told="does not answer to this site")


CHECKS: tuple[Check[Examination], ...] = (Check("PACS", pacs, ("site.toml",), part="pacs"),)
