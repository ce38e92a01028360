"""What a study of the bench is, and what of it is on disk before anything runs."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.common.canonical import canonical_bytes
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_durably, write_weights
from stillroom.deploy.consortium_files import Layout

INJECT = Path(__file__).with_name("inject")
sys.path.insert(0, str(INJECT))
import noise  # noqa: E402  # beside the hooks, which find it there

STAGE = "student"


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        out: A new folder.
        shapes: Tensor name -> shape of the model.
        sites: How many.
        rounds: Of the one stage.
        samples: Site -> cases per group; every group of every site its number when left out.
        quorum: The study's.
        seconds: That a round of "training" takes at least.
        host: The server's address.
        stage: More settings of the stage.
    """

    out: Path
    shapes: Mapping[str, tuple[int, ...]]
    sites: int = 3
    rounds: int = 2
    samples: Mapping[str, Mapping[str, int]] | None = None
    quorum: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    host: str = "127.0.0.1"
    stage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where the rehearsal's own code looks for things."""
        return Layout(self.out)

    @property
    def names(self) -> list[str]:
        """Of the sites."""
        return [f"site-{number:03d}" for number in range(1, self.sites + 1)]

    @property
    def manifest(self) -> Manifest:
        """Every tensor float32, in groups as the real networks have them."""
        return Manifest(
            tensors=tuple(
                TensorSpec(name=name, shape=shape, dtype="float32", group=group_of(name))
                for name, shape in self.shapes.items()
            )
        )

    def cases_of(self) -> dict[str, dict[str, int]]:
        """Site -> cases per group."""
        if self.samples is not None:
            return {site: dict(groups) for site, groups in self.samples.items()}
        groups = self.manifest.groups
        return {name: dict.fromkeys(groups, n) for n, name in enumerate(self.names, 2)}


def group_of(tensor: str) -> str:
    """Exchange group of a tensor, as ``common.nn.weights`` (which needs torch) has it."""
    first, *rest = tensor.split(".")
    return f"head.{rest[0]}" if first == "heads" else first


def prepare_study(plan: Plan) -> PreparedStudy:
    """Write the prepared study into the layout's folder."""
    quorum = {"min_sites": plan.sites, "deadline_s": 900.0, **plan.quorum}
    study = Study.parse(
        {
            "study": {"name": "bench", "quorum": quorum, "max_update_mib": 1024},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["aorta"]}},
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": STAGE, "recipe": "distil", "rounds": plan.rounds, **plan.stage}],
        }
    )
    folder = plan.layout.study
    folder.mkdir(parents=True)
    initial = write_weights(folder / "weights", noise.initial(plan.shapes))
    stage = PreparedStage(initial_sha256=initial, manifest=plan.manifest)
    prepared = PreparedStudy(study=study, stages={STAGE: stage})
    write_durably(folder / "study.json", canonical_bytes(prepared.model_dump(mode="json")))
    return prepared


def write_cases(state: Path, digest: str, site: str) -> None:
    """Three unlabelled cases of eight voxels."""
    store = CaseStore(state / "studies" / digest[:16])
    for number in range(3):
        info = CaseInfo(f"{site}-{number}", (2, 2, 2), (6.0, 6.0, 6.0), (0.0, 0.0, 0.0))
        store.write_case(info, np.zeros((2, 2, 2), np.int16), {})
        # Another scan's folder is their origin: intake, which finds none here, leaves them alone.
        note = store.root / info.id / "source.json"
        note.write_text(json.dumps({"origin": "elsewhere"}), "utf-8")


def records(run: Path) -> list[dict[str, Any]]:
    """Every round's record, in order."""
    return [
        json.loads(path.read_text("utf-8")) for path in sorted(run.glob(f"round-{STAGE}-*.json"))
    ]
