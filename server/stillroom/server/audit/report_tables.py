"""The tables of the auditor's page. Pure."""

from collections.abc import Iterator, Sequence

from stillroom.common.errors import CODES
from stillroom.common.log_entries import Update
from stillroom.common.markup import Child, Html, data_size, short, tag
from stillroom.server.audit.case import Case
from stillroom.server.audit.history import History, Stage
from stillroom.server.audit.ledger_checks import Compared, beside_log

WORDS = {
    "admitted": "counted",
    "refused": "refused",
    "failed": "failed at the site",
    "late": "too late",
}
"""Status of an answer -> what became of it."""


def timeline(history: History) -> Html:
    """Everything but single rounds and answers, which have tables of their own."""
    found = sorted(_moments(history))
    rows = [
        tag("tr", tag("td", index, class_="num"), tag("td", time, class_="nowrap"), tag("td", what))
        for index, time, what in found
    ]
    return table(("Entry", "Time (UTC)", "What happened"), rows)


def _moments(history: History) -> Iterator[tuple[int, str, str]]:
    for index, consortium in history.consortia:
        yield index, consortium.time, "The consortium's description was published."
    for index, member in history.members:
        was = "left by itself" if member.act == "left" else f"was {member.act}"
        yield index, member.time, f"Site {member.site} {was}."
    for given in history.consents:
        word = "consented to" if given.entry.act == "given" else "withdrew its consent to"
        yield (
            given.index,
            given.entry.time,
            f"Site {given.entry.site} {word} study {given.entry.study[:16]}…",
        )
    for index, study in history.studies:
        yield index, study.time, f"Study {study.name}: run {study.run} was {study.act}."
    for run in history.runs:
        for name, stage in run.stages.items():
            yield stage.index, stage.opened.time, _stage(name, stage)
        if run.finish is not None:
            index, finish = run.finish
            part = (
                "everybody took part"
                if finish.complete_participation
                else "not everybody took part"
            )
            yield index, finish.time, f"Run {finish.run} {finish.status}; {part}."
    for index, release in history.releases:
        yield index, release.time, f"Release {release.name} was made."
    for index, operator in history.operators:
        yield (
            index,
            operator.time,
            f"Operator: {operator.act} ({operator.subject or 'nothing named'}).",
        )
    for index, refused in history.refused:
        count = sum(refused.reasons.values())
        yield index, refused.time, f"{count} connections or requests refused since {refused.since}."


def _stage(name: str, stage: Stage) -> str:
    done = sum(turn.commit is not None for turn in stage.rounds.values())
    return f"Stage {name} ({stage.opened.recipe}) began: {done} of {stage.opened.rounds} rounds committed."


def departures(case: Case) -> Html:
    """Per site, stage and round: the file that left, and whether its ledger says so."""
    beside = {found.site: _lines(found) for _, found in beside_log(case) if found is not None}
    rows = [
        tag(
            "tr",
            tag("td", index, class_="num"),
            tag("td", update.site),
            tag("td", update.stage),
            tag("td", update.round, class_="num"),
            tag("td", short(update.sha256)),
            tag("td", data_size(update.bytes), class_="num"),
            tag("td", ", ".join(f"{k} {v}" for k, v in sorted(update.samples.items()))),
            tag("td", WORDS[update.status]),
            tag("td", _ledger(index, beside.get(update.site))),
        )
        for index, update in _updates(case)
        if update.sha256 is not None
    ]
    names = (
        "Entry",
        "Site",
        "Stage",
        "Round",
        "File, SHA-256",
        "Size",
        "Cases",
        "Became",
        "Its ledger",
    )
    return table(names, rows)


def _lines(found: Compared) -> dict[int, Html]:
    """Index of an entry -> what the site's ledger says of it."""
    said = {entry: tag("span", f"line {line}", class_="ok") for line, entry in found.pairs}
    for line, entry, _ in found.differing:
        said[entry] = tag("span", f"line {line}, differs", class_="FAILED")
    return said


def _ledger(index: int, said: dict[int, Html] | None) -> Html:
    if said is None:
        return tag("span", "not given", class_="quiet")
    return said.get(index, tag("span", "never left", class_="FAILED"))


def refusals(case: Case) -> Html:
    """Every answer that did not count."""
    rows = [
        tag(
            "tr",
            tag("td", index, class_="num"),
            tag("td", update.time, class_="nowrap"),
            tag("td", update.site),
            tag("td", f"{update.stage}, round {update.round}"),
            tag("td", WORDS[update.status]),
            tag(
                "td",
                f"{update.code}: {CODES.get(update.code, '')}"
                if update.code
                else "no answer in time",
            ),
        )
        for index, update in _updates(case)
        if update.status != "admitted"
    ]
    edge = [
        tag(
            "tr",
            tag("td", index, class_="num"),
            tag("td", entry.time, class_="nowrap"),
            tag("td", "at the server's edge"),
            tag("td"),
            tag("td", f"{sum(entry.reasons.values())} times"),
            tag("td", ", ".join(f"{why}: {count}" for why, count in sorted(entry.reasons.items()))),
        )
        for index, entry in case.history.refused
    ]
    return table(("Entry", "Time (UTC)", "Who", "Where", "What became of it", "Why"), rows + edge)


def labels(case: Case) -> Html:
    """Whose teachers labelled which scans at which site, and what the filters kept: counts alone."""
    rows = []
    for index, update in _updates(case):
        for label, found in _verdicts(update).items():
            cells = ", ".join(f"{verdict} {count}" for verdict, count in sorted(found.items()))
            rows.append(
                tag(
                    "tr",
                    tag("td", index, class_="num"),
                    tag("td", update.site),
                    tag("td", f"{update.stage}, round {update.round}"),
                    tag("td", label),
                    tag("td", cells),
                    tag("td", _teachers(case, update)),
                )
            )
    names = ("Entry", "Site", "Where", "Label type", "Scans", "Labelled by teachers")
    return table(names, rows)


def _verdicts(update: Update) -> dict[str, dict[str, int]]:
    """Label type -> verdict -> scans; the keys of counts are ``pseudo.<label type>.<verdict>``."""
    found: dict[str, dict[str, int]] = {}
    for key, count in update.counts.items():
        _, label, verdict = key.split(".", 2) if key.count(".") >= 2 else ("", key, "scans")
        found.setdefault(label, {})[verdict] = count
    return found


def _teachers(case: Case, update: Update) -> list[Child]:
    for run in case.runs():
        stage = run.stages.get(update.stage)
        if stage is not None and run.started.study == update.study:
            return [
                tag("div", f"{name} ", short(digest))
                for name, digest in sorted(stage.opened.teachers.items())
            ]
    return []


def scores(history: History) -> Html:
    """Whose cases a model was scored on, and who gave no score; the log names the numbers by digest."""
    rows = [
        tag(
            "tr",
            tag("td", index, class_="num"),
            tag("td", entry.time, class_="nowrap"),
            tag("td", entry.stage),
            tag("td", entry.round, class_="num"),
            tag("td", short(entry.model_sha256)),
            tag("td", ", ".join(entry.sites) or "nobody"),
            tag("td", "; ".join(f"{site}: {why}" for site, why in sorted(entry.missing.items()))),
            tag("td", short(entry.scores_sha256)),
        )
        for index, entry in history.scored
    ]
    names = (
        "Entry",
        "Time (UTC)",
        "Stage",
        "Round",
        "Model",
        "Scored by",
        "No score from",
        "Numbers, SHA-256",
    )
    return table(names, rows)


def releases(history: History) -> Html:
    """What was published."""
    rows = [
        tag(
            "tr",
            tag("td", index, class_="num"),
            tag("td", entry.time, class_="nowrap"),
            tag("td", entry.name),
            tag("td", short(entry.study)),
            tag("td", short(entry.student_sha256)),
            tag("td", short(entry.statement_sha256)),
        )
        for index, entry in history.releases
    ]
    return table(("Entry", "Time (UTC)", "Name", "Study", "Student", "Statement"), rows)


def _updates(case: Case) -> Iterator[tuple[int, Update]]:
    found = (
        pair
        for run in case.runs()
        for stage in run.stages.values()
        for turn in stage.rounds.values()
        for pair in turn.updates
    )
    return iter(sorted(found, key=lambda pair: pair[0]))


def table(names: Sequence[str], rows: Sequence[Html]) -> Html:
    """A table of rows under their names, or the word None."""
    if not rows:
        return tag("p", "None.", class_="quiet")
    number = {"Entry", "Round", "Size"}
    cells = [tag("th", name, class_="num" if name in number else None) for name in names]
    head = tag("thead", tag("tr", cells))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")
