"""How many scans of which label this site has, without reading one: from what is on disk already."""

from pathlib import Path

from stillroom.client.intake.catalogue import Catalogue
from stillroom.client.intake.store import CaseStore
from stillroom.client.recipes.cohort import inventory
from stillroom.common.errors import DataError
from stillroom.common.study import PreparedStudy, Study


def local_counts(state: Path, prepared: PreparedStudy) -> dict[str, float] | None:
    """``inventory.*`` of this site; None when nothing was scanned yet.

    From the working copies of this study where there are any, else from the last scans of
    ``data scan``, which know a series and its labels before anything is prepared.
    """
    store = CaseStore(state / "studies" / prepared.digest[:16])
    if store.ids():
        return inventory(store, prepared.study)
    catalogues = []
    for path in sorted(state.glob("catalogue*.json")):
        try:
            catalogues.append(Catalogue.load(path))
        except DataError:
            continue
    return _of_catalogues(catalogues, prepared.study) if catalogues else None


def _of_catalogues(catalogues: list[Catalogue], study: Study) -> dict[str, float]:
    """A scan that two catalogues hold counts once."""
    labels: dict[str, set[str]] = {}
    for catalogue in catalogues:
        for entry in catalogue.accepted:
            labels.setdefault(entry.id, set())
        for file in catalogue.labels:
            if file.entry_id in labels and file.finding is None and file.label in study.label:
                labels[file.entry_id].add(file.label)
    counts: dict[str, float] = {
        "inventory.cases": len(labels),
        "inventory.unlabelled.cases": sum(not owned for owned in labels.values()),
    }
    for label in study.label:
        counts[f"inventory.{label}.cases"] = sum(label in owned for owned in labels.values())
    return counts
