"""A study with sites that train nothing, over the server's real code: its run, depot, log and records.

Three sites answer every round with files in the study's encoding. It takes a fraction of a second,
so that a round of it can be made, killed and made again some hundred times.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stillroom.common.encoding import BlobWriter
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import INVENTORY, ROUND, Reply, UpdateRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import parse, serialise, write_weights
from stillroom.common.weightfile import file_order
from stillroom.server.asking import Awaited, Call
from stillroom.server.chronicle import Chronicle
from stillroom.server.cosigned import Cosigned
from stillroom.server.depot import Depot
from stillroom.server.log import Log
from stillroom.server.logbook import Logbook
from stillroom.server.rounds.outcome import Answer
from stillroom.server.store.folder import RunFolder
from stillroom.server.study_run import StudyRun

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SITES = ("brook", "harbour", "river")
SHAPES = {"trunk.w": (96, 40), "trunk.b": (7,), "head.vessels.w": (50,)}
MANIFEST = Manifest(
    tensors=tuple(
        TensorSpec(name=name, shape=shape, dtype="float32", group=name.rpartition(".")[0])
        for name, shape in SHAPES.items()
    )
)
STAGE = "student"


@dataclass
class Sites:
    """All sites; they answer in the order asked, or backwards."""

    depot: Depot
    encoding: str
    backwards: bool = False

    def sites(self) -> tuple[str, ...]:
        """Whoever is there."""
        return SITES

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """One answer a call."""
        for call in reversed(calls) if self.backwards else calls:
            assert call.key in awaited() or not awaited()
            if call.kind == INVENTORY:
                numbers: Mapping[str, float] = {"inventory.cases": 6, "inventory.vessels.cases": 6}
                yield call, Answer(Reply(metrics=numbers), None, 0.5)
            elif call.kind == ROUND:
                yield call, Answer(self._trained(call), None, 0.5)
            else:
                yield call, Answer(None, "STR-404", 0.5)

    def _trained(self, call: Call) -> Reply:
        """An update: what was sent, plus noise of this site and round; uploaded to the depot."""
        base = call.task.models[STAGE].sha256
        path = self.depot.outgoing(base)
        assert path is not None, "a site cannot fetch the model"
        noise = np.random.default_rng([SITES.index(call.site), call.task.round])
        change = {
            name: noise.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()
        }
        if self.encoding == "fp32":
            data = serialise({n: v + change[n] for n, v in parse(path.read_bytes()).items()})
        else:
            data = _packed(change, self.encoding)
        sha256 = hashlib.sha256(data).hexdigest()
        have, whole = self.depot.have(call.site, sha256)
        if not whole:
            self.depot.append(call.site, sha256, [data[have:]], offset=have, total=len(data))
        cases = SITES.index(call.site) + 2
        update = UpdateRef(self.encoding, base, sha256, len(data))
        samples = {"trunk": cases, "head.vessels": cases}
        return Reply(update, samples, {"train.loss": 0.5})


def _packed(change: Mapping[str, Any], encoding: str) -> bytes:
    stream = io.BytesIO()
    writer = BlobWriter(stream, encoding, MANIFEST)
    for spec in file_order(MANIFEST):
        writer.add(spec.name, change[spec.name])
    writer.finish()
    return stream.getvalue()


@dataclass
class Trial:
    """One consortium's server on disk.

    Attributes:
        folder: Everything is below it.
        encoding: Of the stage.
        rules: Its ``[stage.aggregation]``.
        rounds: Of the stage.
        backwards: Whether sites answer in the reverse order.
        keep: The study's ``retain_updates``.
    """

    folder: Path
    encoding: str = "fp32"
    rules: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 3
    backwards: bool = False
    keep: str = "all"

    @property
    def log(self) -> Log:
        """The consortium's log."""
        return Log(self.folder / "log", self.folder / "guard", "trial/log", KEY)

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run"

    def prepared(self) -> PreparedStudy:
        """The study, its first weights on disk."""
        zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        first = write_weights(self.folder / "weights", zeros)
        stage = {"name": STAGE, "recipe": "distil", "rounds": self.rounds}
        study = Study.parse(
            {
                "study": {"name": "trial", "quorum": {"min_sites": 3}, "retain_updates": self.keep},
                "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
                "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
                "model": {"student": {"arch": "light-swin", "feature_size": 12}},
                "stage": [
                    {
                        **stage,
                        "exchange": {"encoding": self.encoding},
                        "aggregation": dict(self.rules),
                    }
                ],
            }
        )
        return PreparedStudy(
            study=study, stages={STAGE: PreparedStage(initial_sha256=first, manifest=MANIFEST)}
        )

    def start(self, heed: Callable[[StudyRun], None] = lambda _: None) -> StudyRun:
        """A process of the run, about to begin; ``heed`` is asked before every step."""
        depot = Depot(self.folder / "depot")
        one = StudyRun(
            self.prepared(),
            RunFolder(self.run, self.folder / "weights"),
            Sites(depot, self.encoding, self.backwards),
            depot,
            heed=lambda: heed(one),
            chronicle=Chronicle(Logbook(self.log, Cosigned(self.folder / "cosigned")), "trial"),
        )
        return one
