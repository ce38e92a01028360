"""Who took part, on the auditor's page: sites by rounds, and why a site was not there. Pure."""

from collections.abc import Iterator, Sequence

from stillroom.common.markup import Child, Html, join, spans, tag
from stillroom.server.audit.history import Round, Run, Stage
from stillroom.server.audit.report_tables import WORDS, table

ROUNDS_PER_BLOCK = 24
MARKS = {"admitted": "", "refused": "×", "failed": "!", "late": "…"}


def subset_notice(runs: Sequence[Run]) -> Html | None:
    """What must be read first: results that not everybody took part in; None when there is none."""
    found = [
        f"Run {run.started.run} of study {run.started.name}: in {fewer} of {len(turns)} rounds a site that "
        "was expected did not count."
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


def absences(runs: Sequence[Run]) -> Html:
    """In words, for paper: every site that was not asked or did not count, in which rounds, and why."""
    rows = [
        tag(
            "tr",
            tag("td", f"{run.started.run}, {name}"),
            tag("td", site),
            tag("td", what),
            tag("td", why),
            tag("td", spans(numbers)),
        )
        for run in runs
        for name, stage in run.stages.items()
        for (site, what, why), numbers in sorted(_gaps(stage).items())
    ]
    return table(("Run, stage", "Site", "What", "Why", "Rounds"), rows)


def _gaps(stage: Stage) -> dict[tuple[str, str, str], list[int]]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for number, turn in stage.rounds.items():
        for gap in _gaps_of(turn):
            found.setdefault(gap, []).append(number)
    return found


def _gaps_of(turn: Round) -> Iterator[tuple[str, str, str]]:
    """Site, what became of it, why."""
    missing = {} if turn.commit is None else turn.commit[1].missing
    answers = turn.answers()
    for site, why in missing.items():
        answer = answers.get(site)
        yield site, "asked, no answer" if answer is None else WORDS[answer[1].status], why
    for _, opening in turn.openings[-1:]:
        for site, why in opening.left_out.items():
            if site not in missing and site not in answers:
                yield site, "not asked", why
