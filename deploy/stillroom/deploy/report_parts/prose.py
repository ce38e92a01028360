"""The run in plain words and headline numbers. Pure."""

from collections.abc import Mapping
from typing import Any

from stillroom.common.markup import (
    Html,
    data_size,
    duration,
    join,
    listing,
    percent,
    plural,
    spelled,
    tag,
    tls_name,
)
from stillroom.common.pages.document import facts as strip
from stillroom.common.pages.reading import (
    Summary,
    held_out,
    is_partial,
    rounds,
    site_names,
    stages,
    total_bytes,
)


def lede(summary: Summary) -> str:
    """One paragraph for a reader who knows nothing of federated learning."""
    spared = held_out(summary)
    training = [name for name in site_names(summary) if name not in spared]
    count = sum(1 for _ in rounds(summary))
    who = f"{spelled(len(training))} {'site' if len(training) == 1 else 'sites'}"
    span = f"{plural(count, 'round')} in {plural(len(stages(summary)), 'stage')}"
    size = f"{data_size(total_bytes(summary))} of weights in both directions"
    took = duration(float(summary.get("seconds") or 0))
    first = "trained one model together without showing each other a scan"
    sentences = [f"{who} {first}: {span}, {size}, {took}."]
    if is_partial(summary):
        sentences.append("Not every site took part in every round it was asked to.")
    if spared:
        verb = "trains" if len(spared) == 1 else "train"
        sentences.append(
            f"What follows was measured at {listing(spared)}, which {verb} nothing and only "
            f"{'scores' if len(spared) == 1 else 'score'} the result."
            if (summary.get("metrics") or {}).get("pooled")
            else f"{listing(spared)} {verb} nothing."
        )
    found = [_sentence(*item) for item in _pooled(summary).items()]
    if found:
        sentences.append(
            f"{'There' if spared else 'On all scored cases'} the student reaches {listing(found)}."
        )
    return " ".join(sentences)


def _pooled(summary: Summary) -> Mapping[str, Mapping[str, Any]]:
    return (summary.get("metrics") or {}).get("pooled") or {}


def _sentence(label: str, table: Mapping[str, Any]) -> str:
    if "mean_dice" in table:
        return f"a mean Dice of {table['mean_dice']:.2f} for {label}"
    rate = percent(float(table.get("detection_rate") or 0))
    error = table.get("median_error_mm")
    if error is None:
        return f"{rate} of {label} found"
    return f"{rate} of {label} found with a median error of {error:.1f} mm"


def stats(summary: Summary) -> Html:
    """The strip of facts under the title."""
    spared = held_out(summary)
    training = len(site_names(summary)) - len(spared)
    facts = {
        "sites": f"{training} + {len(spared)} held out" if spared else str(training),
        "stages": str(len(stages(summary))),
        "rounds": str(sum(1 for _ in rounds(summary))),
        "weights exchanged": data_size(total_bytes(summary)),
        "time": duration(float(summary.get("seconds") or 0)),
        "transport": tls_name(summary.get("tls_version")),
    }
    return strip(facts.items())


def headline(summary: Summary) -> Html | None:
    """One card per label with its pooled result; None when nothing was pooled."""
    cards = []
    for label, table in _pooled(summary).items():
        rate = float(table.get("detection_rate") or 0)
        cases = f"{table['cases']:g} cases" if "cases" in table else ""
        if "mean_dice" in table:
            value = join(f"{table['mean_dice']:.2f}", tag("span", " Dice"))
            small = f"{percent(rate)} of classes detected"
        else:
            error = table.get("median_error_mm")
            value = join("—" if error is None else f"{error:.1f}", tag("span", " mm median error"))
            small = f"{percent(rate)} of points found"
        detail = tag("small", ", ".join(filter(None, [small, cases])))
        cards.append(tag("div", tag("dt", label), tag("dd", value, detail), class_="card"))
    return tag("dl", cards, class_="cards") if cards else None
