"""Which sites take part in a stage, and why the others do not. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from stillroom.common.consent import WORDS, Standing
from stillroom.common.errors import ConfigError
from stillroom.common.study import Stage, Study

Inventory = Mapping[str, float]
"""Metric name -> count, as ``stillroom.common.metrics`` defines ``inventory.*``."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is asked in a stage.

    Attributes:
        invited: Site names, sorted.
        left_out: Site -> why, in words for the log.
    """

    invited: tuple[str, ...]
    left_out: Mapping[str, str]


def without_consent(consents: Mapping[str, Standing] | None, site: str) -> str | None:
    """Why ``site`` may be asked nothing; None when it may.

    Args:
        consents: Site -> standing of its consent; None where no registry is kept.
        site: One site.
    """
    found = "given" if consents is None else consents.get(site, "none")
    return None if found == "given" else WORDS[found]


def admit(
    study: Study,
    stage: Stage,
    inventories: Mapping[str, Inventory],
    consents: Mapping[str, Standing] | None = None,
) -> Admission:
    """Decide who trains or labels in ``stage``.

    Args:
        study: The study.
        stage: One of its stages.
        inventories: Site -> its counts; sites that never answered are absent.
        consents: Site -> standing of its consent; None where no registry is kept.

    Raises:
        ConfigError: STR-104 when nobody can take part, saying what is missing.
    """
    left_out: dict[str, str] = {}
    for site, counts in inventories.items():
        why = without_consent(consents, site)
        if why is not None:
            left_out[site] = why
        elif site in study.study.held_out and not stage.declared.everywhere:
            # Finding the heart trains nothing, and scoring needs the same crop as training.
            left_out[site] = "held out: evaluated only"
        elif counts.get("inventory.cases", 0) == 0:
            left_out[site] = "has no usable case"
        elif stage.label is not None and counts.get(f"inventory.{stage.label}.cases", 0) == 0:
            left_out[site] = f"has no case with label {stage.label}"
    invited = tuple(sorted(inventories.keys() - left_out.keys()))
    if not invited:
        no_consent = sum(without_consent(consents, site) is not None for site in inventories)
        more = f" and consents ({no_consent} do not)" if no_consent else ""
        wanted = f"label {stage.label}" if stage.label is not None else "a usable case"
        raise ConfigError(
            f"Stage {stage.name} cannot run: none of {len(inventories)} sites has {wanted}{more}.",
            fix="Enrol a site that has it, or take the stage out of the study.",
            code="STR-104",
        )
    return Admission(invited, left_out)


def admit_evaluation(
    study: Study,
    stage: Stage,
    inventories: Mapping[str, Inventory],
    *,
    held_out_only: bool,
    consents: Mapping[str, Standing] | None = None,
) -> tuple[str, ...]:
    """Sites that can score ``stage``'s model: held-out ones, and owners of what it predicts."""
    labels = study.predicted_labels(stage)
    chosen = []
    for site, counts in inventories.items():
        owns = any(counts.get(f"inventory.{label}.cases", 0) for label in labels)
        allowed = without_consent(consents, site) is None
        if owns and allowed and (site in study.study.held_out or not held_out_only):
            chosen.append(site)
    return tuple(sorted(chosen))
