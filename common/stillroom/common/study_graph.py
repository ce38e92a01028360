"""The graph of a study's stages: which consumes what, and the refusal of one that cannot run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stillroom.common.errors import ConfigError
from stillroom.common.recipes.declaration import Uses
from stillroom.common.stage import Stage

if TYPE_CHECKING:
    from stillroom.common.study import Study


def check_references(study: "Study") -> None:
    """Refuse a stage that is defined twice, consumes what no earlier one produces, or cannot work.

    Raises:
        ConfigError: STR-103 a name that leads nowhere or to something of the wrong kind; STR-102
            settings that contradict each other.
    """
    names = [stage.name for stage in study.stage]
    earlier: dict[str, Stage] = {}
    for stage in study.stage:
        where = f"stage {stage.name}"
        if stage.name in earlier:
            raise _reference(f"{where} is defined twice", "Give every stage its own name.")
        _check_label(study, stage)
        for model in stage.declared.models:
            if model not in study.model:
                raise _reference(f"{where} needs [model.{model}]", "Add it.")
        _check_inputs(stage, earlier, names)
        for name in stage.label_weights:
            if name not in study.label:
                raise _reference(f"{where} weighs label {name}, which is not defined", "Remove it.")
        _check_quorum(study, stage)
        stage.declared.check(study, stage)
        earlier[stage.name] = stage
    _check_condition(study)


def _check_label(study: "Study", stage: Stage) -> None:
    where, declared = f"stage {stage.name}", stage.declared
    if declared.label == "none":
        if stage.label is not None:
            raise _reference(
                f"{where} names label {stage.label}, and {stage.recipe} learns no single label",
                "Leave label out.",
            )
        return
    if stage.label not in study.label:
        raise _reference(
            f"{where} learns label {stage.label}, which is not defined",
            f"Use one of {', '.join(study.label)}.",
        )
    kind = study.label[stage.label].kind
    if kind not in declared.kinds:
        raise _reference(
            f"{where} learns label {stage.label} of kind {kind}, which {stage.recipe} cannot",
            f"Name a label of kind {' or '.join(sorted(declared.kinds))}.",
        )


def _check_inputs(stage: Stage, earlier: Mapping[str, Stage], names: list[str]) -> None:
    """Every input is an earlier stage that leaves what the recipe takes there."""
    declared = stage.declared
    places = (
        ("start", () if stage.start is None else (stage.start,), Uses(declared.start, most=1)),
        ("backbone", () if stage.backbone is None else (stage.backbone,), declared.backbone),
        ("teachers", stage.teachers, declared.teachers),
    )
    for place, given, uses in places:
        where = f"stage {stage.name}"
        if given and not uses.kinds:
            raise _reference(
                f"{where} names {place}, which {stage.recipe} has no use for", "Remove it."
            )
        if len(given) < uses.fewest:
            raise _reference(f"{where} has no {place}", f"Name an earlier stage in {place}.")
        if uses.most is not None and len(given) > uses.most:
            raise _reference(f"{where} has too many {place}", f"Name at most {uses.most}.")
        for name in given:
            _check_input(stage, place.removesuffix("s"), name, uses, earlier=earlier, names=names)


def _check_input(
    stage: Stage,
    place: str,
    name: str,
    uses: Uses,
    *,
    earlier: Mapping[str, Stage],
    names: list[str],
) -> None:
    where, wanted = f"stage {stage.name}", " or ".join(sorted(uses.kinds))
    if name == stage.name or (name not in earlier and name in names):
        raise _reference(
            f"{where} uses {place} {name}, which does not come before it: stages would wait for "
            "each other in a circle",
            "Name an earlier stage, or move this stage after it.",
        )
    if name not in earlier:
        raise _reference(
            f"{where} uses {place} {name}, and no stage has that name",
            f"Name an earlier stage that leaves a {wanted}.",
        )
    if earlier[name].declared.produces not in uses.kinds:
        raise _reference(
            f"{where} uses {place} {name}, which leaves no {wanted}",
            f"Name an earlier stage that leaves a {wanted}.",
        )


def _check_quorum(study: "Study", stage: Stage) -> None:
    fewest, sites = stage.aggregation.fewest_sites, study.study.quorum.min_sites
    if sites < fewest:
        raise ConfigError(
            f"In the study file, stage {stage.name} aggregates by {stage.aggregation.method}, which "
            f"needs {fewest} updates to protect from one, and the quorum is {sites}.",
            fix=f"Set study.quorum.min_sites to {fewest} or more.",
            code="STR-102",
        )


def _check_condition(study: "Study") -> None:
    condition = study.volume.condition_on
    if condition is not None and (
        condition not in study.label or study.label[condition].kind != "mask"
    ):
        raise _reference(
            f"volume.condition_on names {condition}, which is not a mask label",
            "Name a mask label or leave it out.",
        )


def _reference(what: str, fix: str) -> ConfigError:
    return ConfigError(f"In the study file, {what}.", fix=fix, code="STR-103")
