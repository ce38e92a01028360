"""The site's page as HTML. Pure: an overview in, a body out."""

from stillroom.client.consent_text import KINDS, SiteFacts, taking_part
from stillroom.client.page.checks import checks, verdict
from stillroom.client.page.left_view import left_sections
from stillroom.client.page.overview import SiteOverview
from stillroom.common.markup import Child, Html, join, moment, plural, prose, tag
from stillroom.common.pages.document import section, table
from stillroom.common.study import Study

CHECKS_NOTES = (
    "From this site's own files. For the network in between, run `stillroom-client doctor`.",
)
STUDY_NOTES = (
    "What the study would do here in full, and the signature under it: `stillroom-client consent show`.",
)
LONGEST_WHY = 200


def site_body(seen: SiteOverview, token: str) -> Html:
    """The whole page.

    Args:
        seen: The site.
        token: For the form that pauses and resumes.
    """
    return join(
        tag(
            "header",
            tag("p", f"Site page, {moment(seen.at.isoformat())}", class_="kicker"),
            tag("h1", seen.site),
            tag("p", _where(seen), class_="id"),
            _verdict(seen),
            _form(seen, token),
        ),
        tag(
            "main",
            section("checks", "Is it working?", CHECKS_NOTES, _checks(seen)),
            section("study", "What is it learning?", STUDY_NOTES, _study(seen)),
            left_sections(seen),
        ),
    )


def _where(seen: SiteOverview) -> str:
    if not seen.consortium:
        return f"Dials {seen.server} and no other address."
    return f"In {seen.consortium}. Dials {seen.server} and no other address."


def _verdict(seen: SiteOverview) -> Html:
    found = verdict(seen)
    bad = found.state in {"stopped", "attention"}
    return tag(
        "div",
        tag("strong", found.title),
        tag("p", prose(found.words)),
        class_="alert" if bad else f"verdict {found.state}",
        role="alert" if bad else "status",
    )


def _form(seen: SiteOverview, token: str) -> Html:
    hidden = tag("input", type="hidden", name="token", value=token)
    if seen.pause is not None:
        button = tag("button", "Resume", type="submit")
        return tag("form", hidden, button, method="post", action="/resume")
    why = tag(
        "label",
        "Reason, for people at this site (it does not leave)",
        tag("input", type="text", name="why", maxlength=LONGEST_WHY, autocomplete="off"),
    )
    button = tag("button", "Pause this site", type="submit")
    return tag("form", hidden, why, button, method="post", action="/pause")


def _checks(seen: SiteOverview) -> Html:
    items = [
        tag(
            "li",
            tag("b", check.name),
            tag("span", prose(check.words), class_="yes" if check.holds else "no"),
            None if check.holds else tag("span", prose(check.fix), class_="fix"),
        )
        for check in checks(seen)
    ]
    return tag("ul", items, class_="checks")


def _study(seen: SiteOverview) -> Html:
    if seen.prepared is None:
        return tag("p", "No study that this site could work on can be read here.", class_="quiet")
    study = seen.prepared.study
    labels = [
        tag(
            "li",
            tag("b", name),
            f": {KINDS[label.kind]}{':' if label.kind == 'bag' else ' of'} {', '.join(label.classes)}",
        )
        for name, label in study.label.items()
    ]
    end = study.study.expires
    last = "" if end is None else f" It ends on {end.isoformat()} at the latest."
    words = (
        f"In study {study.study.name} a neural network learns to find these in a cardiac CT, in "
        f"{plural(len(study.stage), 'stage')}, together with the other hospitals.{last}"
    )
    return join(
        tag("p", words),
        tag("ul", labels, class_="plain"),
        _stages(seen, study),
    )


def _stages(seen: SiteOverview, study: Study) -> Html:
    facts = SiteFacts(seen.site, seen.server, seen.consortium, "", seen.left.counts)
    digest = "" if seen.prepared is None else seen.prepared.digest
    rows = []
    for stage in study.stage:
        takes_part, why = taking_part(study, stage, facts)
        total = seen.left.stages.get((digest, stage.name))
        rows.append(
            (
                stage.name,
                stage.declared.purpose(stage),
                f"yes, {why}" if takes_part else f"no: {why}",
                f"{0 if total is None else total.last_round} of {stage.rounds}"
                if stage.exchanges
                else "no weights",
                _now(seen, stage.name),
            )
        )
    heads = ("stage", "what for", "this hospital", "last round sent", "now")
    return table("Stages of the study", heads, rows)


def _now(seen: SiteOverview, stage: str) -> Child:
    task = None if seen.pulse is None else seen.pulse.task
    if task is None or task.stage != stage:
        return "—"
    return tag("b", f"round {task.round}")
