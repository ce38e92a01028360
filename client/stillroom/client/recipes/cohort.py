"""Which cases of a site learn, which are scored, and how many there are of each kind."""

import hashlib

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.common.errors import DataError
from stillroom.common.study import Study


def all_cases(store: CaseStore) -> list[CaseInfo]:
    """Every case, by identifier."""
    return [store.info(case_id) for case_id in store.ids()]


def validation_ids(infos: list[CaseInfo], study: Study) -> frozenset[str]:
    """The truly labelled cases kept out of training at a training site.

    The same ones in every stage and round: ranked by a hash of the study's seed and the case's
    identifier, the first ``validation_fraction`` of them.
    """
    labelled = [info.id for info in infos if info.labels & study.label.keys()]
    most = round(len(labelled) * study.study.validation_fraction)
    return frozenset(first_of(labelled, seed=study.study.seed, most=most))


def first_of(names: list[str], *, seed: int, most: int | None) -> list[str]:
    """At most ``most`` of ``names``, ranked by a hash of a seed and the name; None for all.

    The same ones in every stage and round, and fewer are always among more.
    """
    return sorted(names, key=lambda name: _rank(seed, name))[:most]


def _rank(seed: int, case_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{case_id}".encode()).digest()


def training_cases(store: CaseStore, study: Study) -> list[CaseInfo]:
    """Every case that is not kept for validation."""
    infos = all_cases(store)
    kept = validation_ids(infos, study)
    return [info for info in infos if info.id not in kept]


def inventory(store: CaseStore, study: Study) -> dict[str, float]:
    """``inventory.*``: how many cases the site has, in all, without a label and per label type."""
    infos = all_cases(store)
    counts: dict[str, float] = {
        "inventory.cases": len(infos),
        "inventory.unlabelled.cases": sum(not info.labels & study.label.keys() for info in infos),
    }
    for label in study.label:
        counts[f"inventory.{label}.cases"] = sum(label in info.labels for info in infos)
    return counts


def no_case(why: str) -> DataError:
    """What a recipe raises when its site has nothing for it."""
    return DataError(
        f"This site has {why}.",
        fix="Nothing to do: the round goes on without this site.",
        code="STR-401",
    )
