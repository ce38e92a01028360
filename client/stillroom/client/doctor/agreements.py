"""Consortium, study and consent: whether this site may, and does, work on anything."""

from datetime import UTC, datetime, time, timedelta

from stillroom.client.consents import ConsentBook, ConsentCheck
from stillroom.client.doctor.examination import Examination
from stillroom.common.checkup import Check, Finding, failed, ok, skipped, warning
from stillroom.common.consent import WORDS, Consent, Standing
from stillroom.common.pki.files import load_verifying_key

SOON_DAYS = 14


def site_toml(exam: Examination) -> Finding:
    """Whether it can be read and every key of it means something."""
    config = exam.config
    count = len(config.data)
    return ok(f"{exam.path} holds; site {config.site}.", told=f"holds; {count} data folder(s)")


def consortium(exam: Examination) -> Finding:
    """Who may sign studies."""
    if exam.config.consortium is None and exam.config.unsigned_trial:
        return skipped("a trial without enrolment")
    count = len(exam.consortium.operator_keys)
    return ok(f"{exam.consortium.name}, {count} operator(s).", told=f"{count} operator(s)")


def study(exam: Examination) -> Finding:
    """Whether it is here, whole, and signed by an operator in office."""
    if not (exam.config.study / "study.json").is_file():
        return failed(
            "There is no study in the folder that site.toml names.",
            "Get the signed study from the operator and put it there.",
            "STR-204",
            told="none there",
        )
    prepared = exam.prepared
    told = f"{len(prepared.study.stage)} stages, digest {prepared.digest[:16]}"
    end = prepared.study.study.expires
    if end is not None:
        left = datetime.combine(end, time.max, UTC) - exam.now
        if left < timedelta(0):
            return failed(
                f"The study ended on {end}.", "Ask the operator for a new one.", "STR-210",
                told=f"{told}, expired",
            )  # fmt: skip
    return ok(f"{prepared.study.study.name}, {told}.", told=told)


def consent(exam: Examination) -> Finding:
    """What this site's own word on it is."""
    config = exam.config
    if config.consortium is None:
        return skipped("a trial without enrolment")
    book, digest = ConsentBook.below(config.exchange), exam.prepared.digest
    key = load_verifying_key(config.signing_key)
    standing = ConsentCheck(book, digest, config.site, key).standing()
    record = book.latest(digest) if standing == "given" else None
    days = (
        int((record.expires_at - exam.now.timestamp()) // 86400)
        if isinstance(record, Consent)
        else None
    )
    return consent_finding(standing, days)


def consent_finding(standing: Standing, days: int | None) -> Finding:
    """What a standing means. Pure."""
    if standing != "given" or days is None:
        return failed(
            f"{WORDS[standing][:1].upper()}{WORDS[standing][1:]}.",
            "Read `stillroom-client consent show`; then `stillroom-client consent give`, or leave it.",
            "STR-208",
            told=standing,
        )
    if days < SOON_DAYS:
        return warning(
            f"The consent ends in {days} days.",
            "Run `stillroom-client consent give` again if the site is to go on.",
            told=f"given, {days} days left",
            days=days,
        )
    return ok(f"Given, for {days} more days.", told=f"given, {days} days left", days=days)


CHECKS: tuple[Check[Examination], ...] = (
    Check("consortium", consortium, ("site.toml",)),
    Check("study", study, ("site.toml",), unless=("consortium",)),
    Check("consent", consent, ("study",)),
)
