"""The tables of the auditor's page. Pure."""

from collections.abc import Iterator, Sequence

from stillroom.common.errors import CODES
from stillroom.common.log_entries import Update
from stillroom.common.markup import Child, Html, data_size, join, short, tag
from stillroom.server.audit.case import Case
from stillroom.server.audit.history import History, Run, Stage
from stillroom.server.audit.ledger_checks import Compared, beside_log

ROUNDS_PER_BLOCK = 24
MARKS = {"admitted": "", "refused": "×", "failed": "!", "late": "…"}
WORDS = {
    "admitted": "counted",
    "refused": "refused",
    "failed": "failed at the site",
    "late": "too late",
}


def timeline(history: History) -> Html:
    """Everything but single rounds and answers, which have tables of their own."""
    found = sorted(_moments(history))
    rows = [
        tag("tr", tag("td", index, class_="num"), tag("td", time, class_="nowrap"), tag("td", what))
        for index, time, what in found
    ]
    return _table(("Entry", "Time (UTC)", "What happened"), rows)


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


def matrices(runs: Sequence[Run]) -> Html:
    """Sites by rounds, one block of columns after another."""
    parts: list[Child] = [_legend()]
    for run in runs:
        for name, stage in run.stages.items():
            parts.append(tag("h3", f"{run.started.name}, {run.started.run}, stage {name}"))
            numbers = list(stage.rounds)
            for start in range(0, len(numbers), ROUNDS_PER_BLOCK):
                parts.append(_block(stage, numbers[start : start + ROUNDS_PER_BLOCK]))
    return join(parts) if runs else tag("p", "No study ran.", class_="quiet")


def _legend() -> Html:
    items = [
        tag("span", tag("span", mark, class_=f"cell {status}"), WORDS[status])
        for status, mark in MARKS.items()
    ]
    return tag(
        "p", items, tag("span", tag("span", "–", class_="cell none"), "not asked"), class_="legend"
    )


def _block(stage: Stage, numbers: Sequence[int]) -> Html:
    invited = {site for turn in stage.rounds.values() for site in turn.invited}
    left_out = {
        site
        for t in stage.rounds.values()
        for _, opening in t.openings
        for site in opening.left_out
    }
    head = tag("tr", tag("th"), [tag("th", number) for number in numbers])
    rows = [
        tag("tr", tag("th", site), [tag("td", _cell(stage, number, site)) for number in numbers])
        for site in sorted(invited | left_out)
    ]
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="matrix")
    return tag("div", table, class_="scroll")


def _cell(stage: Stage, number: int, site: str) -> Html:
    turn = stage.rounds[number]
    answer = turn.answers().get(site)
    if answer is None:
        why = next(
            (o.left_out[site] for _, o in turn.openings if site in o.left_out), "no answer yet"
        )
        return tag("span", "–", class_="cell none", title=f"{site}, round {number}: {why}")
    status = answer[1].status
    text = f"{site}, round {number}: {WORDS[status]} {answer[1].code or ''}".strip()
    return tag("span", MARKS[status], class_=f"cell {status}", title=text)


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
    return _table(names, rows)


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
    return _table(("Entry", "Time (UTC)", "Who", "Where", "What became of it", "Why"), rows + edge)


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
    return _table(names, rows)


def subset_notice(runs: Sequence[Run]) -> Html | None:
    """What must be read first: results that not everybody took part in; None when there is none."""
    found = [
        f"Run {run.started.run} of study {run.started.name}: {fewer} of {len(turns)} rounds."
        for run in runs
        if (
            turns := [
                t.commit[1] for s in run.stages.values() for t in s.rounds.values() if t.commit
            ]
        )
        and (fewer := sum(bool(commit.missing) for commit in turns))
    ]
    if not found:
        return None
    head = tag("strong", "A result from a subset of the sites")
    return tag("div", head, " ".join(found), class_="verdict warning")


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
    return _table(("Entry", "Time (UTC)", "Name", "Study", "Student", "Statement"), rows)


def _updates(case: Case) -> Iterator[tuple[int, Update]]:
    found = (
        pair
        for run in case.runs()
        for stage in run.stages.values()
        for turn in stage.rounds.values()
        for pair in turn.updates
    )
    return iter(sorted(found, key=lambda pair: pair[0]))


def _table(names: Sequence[str], rows: Sequence[Html]) -> Html:
    if not rows:
        return tag("p", "None.", class_="quiet")
    number = {"Entry", "Round", "Size"}
    cells = [tag("th", name, class_="num" if name in number else None) for name in names]
    head = tag("thead", tag("tr", cells))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")
