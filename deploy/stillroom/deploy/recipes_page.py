"""The page of docs/reference about recipes, made from what they declare. Pure."""

from collections.abc import Iterator

from stillroom.common.recipes.declaration import Declaration
from stillroom.common.recipes.registry import BUILT_IN
from stillroom.deploy.model_tables import rows_of, sections_below

_INTRO = """# Recipes

What a stage of a study can do. `stillroom-server recipes` prints the same list, with recipes of your own that
are installed ([how to write one](../developers/write-a-recipe.md)). What a stage exchanges, and how large it
is, is printed by `stillroom-server study check`; the other keys of a stage are in [the study
file](study-file.md)."""


def recipes_page() -> str:
    """A section for every recipe that comes with stillroom."""
    lines = [_INTRO]
    for one in BUILT_IN:
        lines += ["", *_section(one)]
    return "\n".join(lines) + "\n"


def _section(one: Declaration) -> Iterator[str]:
    yield f"## `{one.name}`"
    yield ""
    yield f"{one.summary[0].upper()}{one.summary[1:]}. Source: {one.source}."
    yield ""
    facts = [
        ("takes", "; ".join(one.takes()) or "nothing of earlier stages"),
        ("leaves", one.produces or "nothing for later stages; only counts leave the site"),
        ("learns", _learns(one)),
        (
            "needs",
            ", ".join(f"`[model.{name}]`" for name in one.models) or "no `[model]` of its own",
        ),
        ("who takes part", "owners of its label" if one.label == "one" else "every training site"),
    ]
    yield "| | |"
    yield "|---|---|"
    for name, text in facts:
        yield f"| {name} | {text} |"
    if one.terms:
        yield f"| reports | {', '.join(f'`train.{term}.loss`' for term in one.terms)} |"
    rows = rows_of(one.options)
    if rows or sections_below(one.options):
        yield ""
        yield "Options, in `[stage.options]`:"
        yield ""
        yield "| key | type | default | meaning |"
        yield "|---|---|---|---|"
        yield from rows
        for path, section in sections_below(one.options):
            name = path.strip("[]")
            yield from (row.replace("| `", f"| `{name}.", 1) for row in rows_of(section))


def _learns(one: Declaration) -> str:
    if one.label == "one":
        return f"one label of kind {' or '.join(sorted(one.kinds))}"
    return "every label type that the study keeps" if one.produces == "student" else "no label"
