"""What a rehearsal leaves for readers: ``summary.json`` and pictures of the held-out cases."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.client.intake.store import CaseStore
from stillroom.client.picture import three_planes
from stillroom.client.training.targets import Grid, decode_points
from stillroom.common.study import Label, Study
from stillroom.common.tensorfile import write_durably
from stillroom.deploy.consortium_files import Layout, logbook
from stillroom.deploy.rehearsal import Outcome

PICTURES = 3
"""Held-out cases shown in the report."""


def write_summary(layout: Layout, outcome: Outcome) -> dict[str, Any]:
    """Write ``summary.json``: the run's own record, with identities as the edge saw them."""
    result = dict(outcome.result)
    seen: Mapping[str, Any] = outcome.edge["sites"] if outcome.edge else {}
    versions = sorted({site["tls_version"] for site in seen.values()})
    summary = {
        **{key: result[key] for key in ("study_name", "study_digest", "seed", "status")},
        "complete_participation": result["complete_participation"],
        "started_at": result["started_at"],
        "seconds": result["seconds"],
        "in_process": outcome.edge is None,
        "data": _kind_of_data(outcome),
        "tls_version": ", ".join(versions) or None,
        "software": {name: version(name) for name in ("stillroom", "flwr", "torch", "monai")},
        "sites": [
            {
                "name": hospital.name,
                "role": "held_out" if hospital.held_out else "train",
                "certificate_sha256": seen.get(hospital.name, {}).get("certificate_sha256"),
                "tls_version": seen.get(hospital.name, {}).get("tls_version"),
                "bytes_in": seen.get(hospital.name, {}).get("bytes_in"),
                "bytes_out": seen.get(hospital.name, {}).get("bytes_out"),
                "inventory": result["inventories"].get(hospital.name, {}),
            }
            for hospital in outcome.hospitals
        ],
        "refused_connections": outcome.edge["refused"] if outcome.edge else {},
        "consents": result.get("consents"),
        "log": _log(layout),
        **{key: result[key] for key in ("stages", "metrics", "teachers", "student", "models")},
        "notes": result["notes"],
    }
    write_durably(layout.out / "summary.json", json.dumps(summary, indent=1).encode("utf-8"))
    return summary


def _log(layout: Layout) -> dict[str, Any]:
    """The consortium's log as the run left it: size, root, and who vouched for how much of it."""
    book = logbook(layout)
    head = book.log.head()
    best = book.cosigned.best()
    return {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "cosigned_size": 0 if best is None else best.checkpoint.size,
        "cosigners": [] if best is None else list(best.sites),
    }


def _kind_of_data(outcome: Outcome) -> str:
    """What the model learned from, for the model card."""
    real = [hospital.name for hospital in outcome.hospitals if len(hospital.data) > 1]
    if not real:
        return "phantom"
    return f"procedural phantoms, and scans of its own, unlabelled, at {', '.join(real)}"


def draw_overlays(
    layout: Layout, outcome: Outcome, study: Study, stage: str
) -> list[tuple[str, Path]]:
    """Truth and prediction of a few held-out cases, one picture each.

    These come from the held-out sites' own state folders: a rehearsal owns all its hospitals and
    may look; in the field nobody but the hospital can.

    Returns:
        (caption, PNG) pairs.
    """
    pictures: list[tuple[str, Path]] = []
    for hospital in outcome.hospitals:
        if not hospital.held_out:
            continue
        state = (
            layout.site(hospital.name) / "state" / "studies" / outcome.result["study_digest"][:16]
        )
        folder = state / "predictions" / stage
        for number, path in enumerate(sorted(folder.glob("*.json"))[:PICTURES], 1):
            pictures += _case_pictures(
                CaseStore(state),
                folder,
                path.stem,
                study,
                f"{hospital.name}, case {number}",
                layout,
            )
    return pictures


def _case_pictures(  # where from, which case, what to call it, where to
    store: CaseStore, folder: Path, case_id: str, study: Study, caption: str, layout: Layout
) -> list[tuple[str, Path]]:
    info, image = store.info(case_id), store.image(case_id)
    predicted = study.student_labels()
    masks = {name: label for name, label in predicted.items() if label.kind == "mask"}
    points = {name: label for name, label in predicted.items() if label.kind == "points"}
    truth = {name: store.mask(case_id, name) for name in masks if name in info.masks}
    guess = {name: np.load(folder / f"{case_id}.{name}.npy") for name in masks}
    true_points = {k: v for name in points for k, v in info.points.get(name, {}).items()}
    grid = Grid(info.shape, info.spacing_mm, info.origin_mm)
    found: dict[str, Any] = {}
    for name, label in points.items():
        classes = np.load(folder / f"{case_id}.{name}.npy")
        found |= decode_points(one_hot(classes, len(label.classes)), label.classes, grid=grid)
    out = layout.out / "pictures"
    out.mkdir(exist_ok=True)
    written = []
    for what, maps, named in (("truth", truth, true_points), ("student", guess, found)):
        if any(part.shape != image.shape for part in maps.values()):
            continue  # the stage looked at a crop; its maps do not lie on this grid
        mask, names = merge(maps, masks)
        picture = three_planes(
            image,
            info.spacing_mm,
            mask=mask,
            names=names,
            points=named,
            origin_mm=info.origin_mm,
            title=f"{caption}: {what}",
        )
        path = out / f"{case_id}-{what}.png"
        picture.save(path)
        written.append((f"{caption}: {what}", path))
    return written


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """(D, H, W) classes as (1 + count, D, H, W) probabilities of 0 and 1, float32."""
    return (classes[None] == np.arange(count + 1).reshape(-1, 1, 1, 1)).astype(np.float32)


def merge(
    maps: Mapping[str, np.ndarray], labels: Mapping[str, Label]
) -> tuple[np.ndarray | None, list[str]]:
    """Several label types as one map, later ones on top, with the names of its values from 1."""
    merged: np.ndarray | None = None
    names: list[str] = []
    for name, part in maps.items():
        if merged is None:
            merged = np.zeros(part.shape, np.uint8)
        merged[part > 0] = part[part > 0] + len(names)
        names += labels[name].classes
    return merged, names
