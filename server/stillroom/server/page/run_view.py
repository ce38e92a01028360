"""One run on the operator's page: where it is, who took part, how it learns, who waited. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from stillroom.common.errors import CODES
from stillroom.common.markup import Child, Html, data_size, duration, join, listing, plural, tag
from stillroom.common.pages.curves import chart
from stillroom.common.pages.document import NOTHING, facts, section, table
from stillroom.common.pages.participation import exceptions, matrix
from stillroom.common.pages.reading import (
    Curve,
    loss_curves,
    score_curves,
    site_names,
    total_bytes,
)
from stillroom.server.page.cost import waits
from stillroom.server.page.overview import RunNow

NOTHING_YET = "No round has been committed yet."
LAST_ROUNDS = 36
"""Of a stage, in the matrix; the run's folder has them all."""
MOST_POINTS = 120
"""Of a curve: more would not be seen."""


def run_sections(one: RunNow, at: float) -> Html:
    """Everything about one run."""
    name = one.run.name
    return join(
        section("run", f"Run {name}", (_about(one),), join(_standing(one, at), _stages(one))),
        section("participation", "Participation", PARTICIPATION_NOTES, _participation(one)),
        section("curves", "Learning curves", CURVES_NOTES, _curves(one)),
        section("cost", "Who waited for whom", COST_NOTES, _cost(one)),
    )


PARTICIPATION_NOTES = (
    "A cell is a site in a round. A site is asked only where it can contribute.",
    f"The last {LAST_ROUNDS} rounds of every stage.",
)
CURVES_NOTES = (
    (
        "Loss is each site's own, on its own cases: lines of different sites are not comparable in "
        "height, only in course."
    ),
)
COST_NOTES = (
    (
        "A round closes with its slowest answer. Longer: from the second slowest answer to this site's. "
        "Waited: by all other sites of those rounds, added up."
    ),
)


def _about(one: RunNow) -> str:
    study = one.now.study or "a study that cannot be read"
    return f"Of {study}. {plural(one.quorum, 'site')} must count in every round."


def _standing(one: RunNow, at: float) -> Html:
    now = one.now
    done = sum(1 for _ in one.rounds())
    pairs: list[tuple[str, Child]] = [
        ("state", tag("span", now.state, class_=f"state {now.state}")),
        ("rounds", f"{done} of {sum(stage['of'] for stage in one.summary['stages'])}"),
        ("weights exchanged", data_size(total_bytes(one.summary))),
    ]
    if now.since is not None:
        pairs.append(("open for", duration(max(0.0, at - now.since))))
    lines = [
        f"Now: {now.stages}." if now.stages else "",
        f"Answered: {listing(now.answered)}." if now.answered else "",
        f"Awaited: {listing(now.awaited)}." if now.awaited else "",
        now.reason,
        f"Last: {now.last}." if now.last else "",
    ]
    return join(facts(pairs), tag("div", [tag("p", line) for line in lines if line], class_="now"))


def _stages(one: RunNow) -> Html:
    rows = []
    for stage in one.summary["stages"]:
        records = stage["rounds"]
        counted = [len(record.get("order") or ()) for record in records]
        rows.append(
            (
                stage["name"],
                stage["recipe"],
                f"{len(records)} of {stage['of']}",
                duration(sum(float(r.get("seconds") or 0) for r in records))
                if records
                else NOTHING,
                _range(counted),
                _epsilon(records),
            )
        )
    heads = ("stage", "recipe", "rounds", "time", "sites counted", "epsilon")
    return table("Stages of the run", heads, rows, numbers=" rounds time ")


def _range(counts: list[int]) -> str:
    if not counts:
        return NOTHING
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def _epsilon(records: list[Mapping[str, Any]]) -> str:
    spent = records[-1].get("epsilon") if records else None
    return NOTHING if spent is None else f"{spent:.2f}"


def _participation(one: RunNow) -> Html:
    recent = {
        **one.summary,
        "stages": [
            {**stage, "rounds": stage["rounds"][-LAST_ROUNDS:]}
            for stage in one.summary["stages"]
            if stage["rounds"]
        ],
    }
    if not recent["stages"]:
        return tag("p", NOTHING_YET, class_="quiet")
    return join(tag("div", matrix(recent), class_="scroll", tabindex="0"), exceptions(recent))


def _curves(one: RunNow) -> Html:
    order, panels = site_names(one.summary), list[Child]()
    for index, stage in enumerate(one.summary["stages"]):
        numbers = [int(record.get("round", 0)) for record in stage["rounds"]]
        if not numbers:
            continue
        span = min(numbers), max(stage["of"], *numbers)
        drawn: list[tuple[str, str, Mapping[str, Curve], float | None]] = [
            (stage["name"], "training loss", loss_curves(stage), None)
        ]
        drawn += [
            (
                f"{stage['name']}: {label}",
                "mean Dice" if what == "dice" else "detection rate",
                c,
                1.0,
            )
            for (label, what), c in score_curves(one.summary, stage).items()
        ]
        for turn, (title, unit, curves, top) in enumerate(drawn):
            if curves:
                identity = f"curve-{index}-{turn}"
                thin = {site: thinned(curve) for site, curve in curves.items()}
                sparse = turn > 0 or len(numbers) > MOST_POINTS
                panels.append(
                    chart(identity, title, thin, order=order, span=span, top=top, unit=unit,
                          is_sparse=sparse)
                )  # fmt: skip
    if not panels:
        return tag("p", NOTHING_YET, class_="quiet")
    return tag("div", panels, class_="panels")


def thinned(curve: Curve) -> Curve:
    """No more than ``MOST_POINTS`` points of a curve, the last among them."""
    step = -(-len(curve) // MOST_POINTS)
    return curve[::-1][::step][::-1]


def _cost(one: RunNow) -> Html:
    found = waits(record for _, _, record in one.rounds())
    if not found:
        words = "No round of more than one site has been committed yet."
        return tag("p", words, class_="quiet")
    rows = [
        (wait.site, wait.rounds, duration(wait.longer_s), duration(wait.others_s)) for wait in found
    ]
    heads = ("slowest site", "rounds", "longer", "waited")
    return table("What slow sites cost", heads, rows, numbers=" rounds longer waited ")


def answers(one: RunNow) -> Counter[str]:
    """How many answers did not count, by code, or by what they were where there is none."""
    found: Counter[str] = Counter()
    for _, _, record in one.rounds():
        for entry in (record.get("sites") or {}).values():
            if entry.get("status") != "admitted":
                code = str(entry.get("reason") or "")[:7]
                found[code if code in CODES else str(entry.get("status"))] += 1
    return found
