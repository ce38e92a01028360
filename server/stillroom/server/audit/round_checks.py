"""Checks 30 to 37: does each model follow from recorded, admitted updates? Pure."""

from collections import Counter
from collections.abc import Iterator

from stillroom.common.log_entries import Update
from stillroom.common.markup import plural, spans
from stillroom.server.audit.case import Case
from stillroom.server.audit.findings import Problem, failed, said, warned
from stillroom.server.audit.history import Round, Run, Stage
from stillroom.server.audit.people_checks import standing_at


def _rounds(case: Case) -> Iterator[tuple[Run, Stage, Round, str]]:
    """Every round with where to say it is."""
    for run in case.runs():
        for name, stage in run.stages.items():
            for number, turn in stage.rounds.items():
                yield run, stage, turn, f"stage {name}, round {number}"


def sequence(case: Case) -> Iterator[Problem]:
    """30: rounds are numbered 1, 2, 3, each opened, committed once, then the next."""
    for run in case.runs():
        for name, stage in run.stages.items():
            numbers = list(stage.rounds)
            if numbers != list(range(1, len(numbers) + 1)):
                what = f"Its rounds are {spans(numbers)}: one was left out, put in or moved."
                yield failed(f"entry {stage.index}, stage {name}", what)
            if len(numbers) > stage.opened.rounds:
                yield failed(f"stage {name}", f"{len(numbers)} rounds of {stage.opened.rounds}.")
            ended = run.finish is not None and run.finish[1].status == "completed"
            if ended and len(numbers) < stage.opened.rounds:
                what = f"{len(numbers)} of {stage.opened.rounds} rounds, in a study that was completed."
                yield failed(f"stage {name}", what)
            yield from _order(run, name, stage)


def _order(run: Run, name: str, stage: Stage) -> Iterator[Problem]:
    end = stage.index
    for number, turn in stage.rounds.items():
        where = f"stage {name}, round {number}"
        for index, _ in turn.openings:
            if index < end or (turn.commit is not None and index > turn.commit[0]):
                yield failed(f"entry {index}, {where}", "It was opened out of turn.")
        if turn.commit is None:
            text = "It was opened and never committed."
            over = run.finish is not None and run.finish[1].status == "completed"
            last = number == max(stage.rounds)
            yield (failed if over or not last else warned)(where, text)
        else:
            end = turn.commit[0]


def answers(case: Case) -> Iterator[Problem]:
    """31: answers came from sites that were asked, one each, before the round was committed."""
    for _, _, turn, place in _rounds(case):
        openings = [index for index, _ in turn.openings]
        counted: Counter[tuple[int, str]] = Counter()
        for index, update in turn.updates:
            where = f"entry {index}, {place}"
            if update.site not in turn.invited:
                yield failed(where, f"{update.site} answered and was not asked.")
            if turn.commit and index > turn.commit[0] and update.status != "late":
                yield failed(
                    where, f"The answer of {update.site} came after the round was committed."
                )
                continue
            opening = max((o for o in openings if o < index), default=-1)
            counted[opening, update.site] += update.status != "late"
            if counted[opening, update.site] > 1 and update.status != "late":
                yield failed(where, f"{update.site} answered twice.")


def summation(case: Case) -> Iterator[Problem]:
    """33: what was summed is what was admitted, no more and no less; totals are the sums."""
    for _, _, turn, place in _rounds(case):
        if turn.commit is None:
            continue
        index, commit = turn.commit
        where = f"entry {index}, {place}"
        admitted = {s: u for s, (_, u) in turn.answers().items() if u.status == "admitted"}
        for site in sorted(admitted.keys() - set(commit.order)):
            yield failed(where, f"The admitted update of {site} was left out of the sum.")
        for site in sorted(set(commit.order) - admitted.keys()):
            yield failed(where, f"{site} was summed without an admitted update in the log.")
        if len(set(commit.order)) != len(commit.order):
            yield failed(where, "A site was summed twice.")
        totals = _totals(list(admitted.values()))
        if dict(commit.totals) != totals:
            what = f"Its totals are {dict(commit.totals)}; the admitted updates give {totals}."
            yield failed(where, what)


def _totals(updates: list[Update]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for update in updates:
        total.update(update.samples)
    return dict(total)


def chain(case: Case) -> Iterator[Problem]:
    """34: every round starts from the model that the one before it made."""
    links = 0
    for run in case.runs():
        for name, stage in run.stages.items():
            model, at = stage.opened.initial_sha256, f"stage {name} (entry {stage.index})"
            for number, turn in stage.rounds.items():
                place = f"stage {name}, round {number}"
                for index, opening in turn.openings:
                    if opening.base_sha256 != model:
                        what = f"It starts from another model than {at} left."
                        yield failed(f"entry {index}, {place}", what)
                yield from _bases(turn, place)
                if turn.commit is None:
                    break
                index, commit = turn.commit
                if (commit.model_sha256 is None) != (model is None):
                    yield failed(
                        f"entry {index}, {place}",
                        "It has a model too many, or lacks one.",
                    )
                model, at = commit.model_sha256, f"{place} (entry {index})"
                links += 1
    yield said("", f"{links} rounds follow one from another.")


def _bases(turn: Round, place: str) -> Iterator[Problem]:
    known = {opening.base_sha256 for _, opening in turn.openings}
    for index, update in turn.updates:
        where = f"entry {index}, {place}"
        if update.status != "admitted":
            continue
        if update.base_sha256 is not None and update.base_sha256 not in known:
            yield failed(where, f"The update of {update.site} was made from another model.")
        if None not in known and update.sha256 is None:
            yield failed(where, f"The admitted update of {update.site} has no digest.")


def teachers(case: Case) -> Iterator[Problem]:
    """35: teachers are the last models of stages that were over by then."""
    for run in case.runs():
        for name, stage in run.stages.items():
            for source, digest in stage.opened.teachers.items():
                where = f"entry {stage.index}, stage {name}"
                teacher = run.stages.get(source)
                commits = (
                    []
                    if teacher is None
                    else [r.commit for r in teacher.rounds.values() if r.commit]
                )
                done = [commit.model_sha256 for index, commit in commits if index < stage.index]
                if teacher is None or len(done) < teacher.opened.rounds:
                    yield failed(where, f"Teacher {source} was used before its stage was over.")
                elif done[-1] != digest:
                    yield failed(where, f"Teacher {source} is not the last model of its stage.")


def participation(case: Case) -> Iterator[Problem]:
    """36: who was expected and did not count, said for every round."""
    gaps: Counter[tuple[str, str]] = Counter()
    total = partial = 0
    for _, _, turn, place in _rounds(case):
        for index, opening in turn.openings:
            for site in sorted(set(opening.invited) & set(opening.left_out)):
                yield failed(f"entry {index}, {place}", f"{site} is said to be asked and left out.")
        if turn.commit is None:
            continue
        index, commit = turn.commit
        where = f"entry {index}, {place}"
        total += 1
        silent = turn.invited | set(commit.expected)
        for site in sorted(silent - set(commit.order) - commit.missing.keys()):
            yield failed(where, f"{site} was expected, was not counted, and nothing says why.")
        for site in sorted(set(commit.order) & commit.missing.keys()):
            yield failed(where, f"{site} is said to be counted and missing.")
        partial += bool(commit.missing)
        for site, why in commit.missing.items():
            gaps[site, why] += 1
    for (site, why), count in sorted(gaps.items()):
        yield warned(f"site {site}", f"Expected and not counted in {plural(count, 'round')}: {why}")
    yield from _unmentioned(case)
    if partial:
        yield warned("", f"{partial} of {total} rounds are a result from a subset of the sites.")
    elif total:
        yield said("", f"Everybody who was expected counted, in all of {total} rounds.")


def _unmentioned(case: Case) -> Iterator[Problem]:
    """Members that had consented, were not asked, and of whom no word says why."""
    for run, _, turn, place in _rounds(case):
        for index, opening in turn.openings:
            named = set(opening.invited) | opening.left_out.keys()
            for site in sorted(case.history.keys_at(index).keys() - named):
                if standing_at(case, index, site, run.started.study, opening.time) == "given":
                    what = f"{site} had agreed to the study, was not asked, and nothing says why."
                    yield failed(f"entry {index}, {place}", what)


def ends(case: Case) -> Iterator[Problem]:
    """37: what a run says at its end is what its rounds gave."""
    for run in case.runs():
        name = run.started.run
        if run.finish is None:
            yield warned(f"run {name}", "It is not over: nothing in the log ends it.")
            continue
        index, finish = run.finish
        where = f"entry {index}, run {name}"
        models = {n: s.model for n, s in run.stages.items() if s.model is not None}
        if finish.status == "completed" and dict(finish.models) != models:
            wrong = sorted(n for n in models.keys() | finish.models.keys()
                           if models.get(n) != finish.models.get(n))  # fmt: skip
            yield failed(where, f"Its last models are not those of its rounds: {', '.join(wrong)}.")
        commits = [t.commit[1] for s in run.stages.values() for t in s.rounds.values() if t.commit]
        if finish.complete_participation and any(commit.missing for commit in commits):
            yield failed(
                where, "It says that everybody took part in everything; rounds say otherwise."
            )
        if finish.status == "failed":
            yield warned(where, f"It ended without a result, {finish.code or 'no code'}.")
