"""Sites without a line: the same files, checks and encodings as over one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from numpy.typing import NDArray

from stillroom.client.recipes import registry
from stillroom.client.recipes.context import RecipeContext, RoundResult
from stillroom.common.canonical import file_digest
from stillroom.common.encoding import BlobWriter, apply_delta
from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import (
    ENCODINGS,
    MESSAGE_TYPES,
    ROUND,
    Delta,
    ModelRef,
    Reply,
    Task,
    pack_task,
    read_reply,
)
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import mapped, read_weights, write_weights
from stillroom.deploy.local_grid import LocalGrid
from stillroom.server.depot import Depot

START = {
    "head.w": np.linspace(-1, 1, 40, dtype=np.float32),
    "trunk.w": np.linspace(-2, 3, 600, dtype=np.float32).reshape(20, 30),
}
MANIFEST = Manifest(
    tensors=tuple(
        TensorSpec(name=name, shape=value.shape, dtype="float32", group=name[:-2])
        for name, value in START.items()
    )
)
SITES = ("east", "north")


def study(encoding: str) -> Study:
    return Study.parse(
        {
            "study": {"name": "local", "max_update_norm": 1e4},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [
                {
                    "name": "teach",
                    "recipe": "teach",
                    "label": "vessels",
                    "rounds": 9,
                    "exchange": {"encoding": encoding},
                }
            ],
        }
    )


class Learns:
    """A recipe that adds a tenth of a sine to every tensor, and counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, order: RecipeContext) -> RoundResult:
        """One round."""
        self.runs += 1
        weights = {}
        for name, value in (order.weights or {}).items():
            step = np.sin(np.arange(value.size, dtype=np.float32) + order.round) / 10
            weights[name] = value + step.reshape(value.shape)
        return RoundResult(weights, {"trunk": 7, "head": 7}, {"train.loss": 0.5})


class World:
    """A depot, two sites and what a server would ask of them."""

    def __init__(self, folder: Path, encoding: str) -> None:
        self.folder, self.encoding = folder, encoding
        initial = write_weights(folder / "study" / "weights", START)
        stage = PreparedStage(initial_sha256=initial, manifest=MANIFEST)
        self.prepared = PreparedStudy(study=study(encoding), stages={"teach": stage})
        (folder / "study" / "study.json").write_text(self.prepared.model_dump_json())
        self.depot = Depot(folder / "depot")
        self.grid = LocalGrid({name: self._site(name) for name in SITES}, self.depot)
        self.initial = self.model(START)

    def _site(self, name: str) -> Path:
        folder = self.folder / name
        (folder / "scans").mkdir(parents=True)
        path = folder / "site.toml"
        path.write_text(
            f'site = "{name}"\nserver = "127.0.0.1:9"\ndata = ["scans"]\nstate = "state"\n'
            'study = "../study"\ndevice = "cpu"\nunsigned_trial = true\n'
            '[tls]\nca = "ca.pem"\ncertificate = "site.pem"\nprivate_key = "site.key"\n'
        )
        return path

    def model(self, weights: dict[str, NDArray[Any]]) -> ModelRef:
        """A model as the server would have it."""
        sha256 = write_weights(self.folder / "run", weights)
        return ModelRef(sha256, self.file(sha256).stat().st_size)

    def file(self, sha256: str) -> Path:
        """Its file at the server."""
        return self.folder / "run" / f"{sha256}.safetensors"

    def ask(self, model: ModelRef, number: int = 1) -> dict[str, Reply]:
        """One round: what every site answers."""
        task = pack_task(Task(self.prepared.digest, "teach", number, {"teach": model}))
        messages = [
            Message(task, node, MESSAGE_TYPES[ROUND], group_id=str(number))
            for node in self.grid.get_node_ids()
        ]
        names = self.grid.push_messages(messages)
        replies = [read_reply(message) for message in self.grid.pull_messages(names)]
        return dict(zip(SITES, replies, strict=True))

    def update(self, site: str, reply: Reply, base: ModelRef) -> dict[str, NDArray[Any]]:
        """What the server makes of a site's file."""
        assert reply.update is not None
        path = self.depot.received(site, reply.update.sha256)
        assert path is not None
        assert path.stat().st_size == reply.update.nbytes
        if self.encoding == "fp32":
            return mapped(path, MANIFEST.layout)
        into = self.folder / "decoded"
        with path.open("rb") as blob:
            apply_delta(self.file(base.sha256), blob, self.encoding, MANIFEST, into)
        return mapped(into, MANIFEST.layout)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Learns:
    """In place of a teacher's training."""
    learns = Learns()
    monkeypatch.setitem(registry.RECIPES, "teach", learns)
    return learns


@pytest.fixture
def world(tmp_path: Path, recipe: Learns) -> Callable[[str], World]:
    """Makes one for an encoding."""
    return lambda encoding: World(tmp_path, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_updates_arrive_in_the_studys_encoding(
    world: Callable[[str], World], recipe: Learns, encoding: str
) -> None:
    """Each site's file lies whole in the depot, under its own name and of its own base."""
    made = world(encoding)
    replies = made.ask(made.initial)

    for site, reply in replies.items():
        assert reply.update is not None
        assert (reply.update.encoding, reply.update.base) == (encoding, made.initial.sha256)
        received = made.update(site, reply, made.initial)
        for name, value in START.items():
            step = np.sin(np.arange(value.size, dtype=np.float32) + 1).reshape(value.shape) / 10
            error = np.abs(received[name] - (value + step)).max()
            assert error <= {"fp32": 0, "bf16-delta": 4e-4, "int8-delta": 5e-4}[encoding]
    assert recipe.runs == len(SITES)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_asked_again_nothing_is_done_again(
    world: Callable[[str], World], recipe: Learns, encoding: str
) -> None:
    """As after a restart of whatever: the same reply, the same file, no training."""
    made = world(encoding)
    first = made.ask(made.initial)
    for site, reply in first.items():
        assert reply.update is not None
        made.depot.discard(site, reply.update.sha256)

    assert made.ask(made.initial) == first
    assert recipe.runs == len(SITES)
    for site, reply in first.items():
        made.update(site, reply, made.initial)


def test_a_site_that_holds_the_base_needs_only_the_change(
    world: Callable[[str], World], tmp_path: Path
) -> None:
    """The whole file is never published, and both sites hold its very bytes all the same."""
    made = world("bf16-delta")
    made.ask(made.initial)
    with (tmp_path / "change").open("wb") as out:
        writer = BlobWriter(out, "bf16-delta", MANIFEST)
        for name in sorted(START):
            writer.add(name, np.full(START[name].shape, 0.25, np.float32))
        change, nbytes = writer.finish()
    made.depot.publish(made.prepared.digest, tmp_path / "change", change)
    later = made.model({name: value + np.float32(0.25) for name, value in START.items()})

    made.ask(replace(later, delta=Delta(made.initial.sha256, change, nbytes)), 2)

    for site in SITES:
        held = made.folder / site / "exchange" / "models" / f"{later.sha256}.safetensors"
        assert file_digest(held) == later.sha256


def test_a_model_that_nobody_published_is_a_failure_of_that_round(
    world: Callable[[str], World], recipe: Learns
) -> None:
    """Told by its code, as every failure at a site; and nothing is trained."""
    made = world("fp32")
    unknown = made.model({name: value + 1 for name, value in START.items()})

    with pytest.raises(ContractError) as caught:
        made.ask(unknown)
    assert caught.value.code == "STR-311"
    assert recipe.runs == 0
    made.depot.publish(made.prepared.digest, made.file(unknown.sha256), unknown.sha256)
    assert all(reply.update is not None for reply in made.ask(unknown).values())


def test_no_site_can_change_what_others_hold(
    world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred sites in one process share a model's bytes on disk; a recipe may scribble."""
    made = world("fp32")
    model = made.model({name: value + 1 for name, value in START.items()})
    made.depot.publish(made.prepared.digest, made.file(model.sha256), model.sha256)

    class Scribbles:
        def run(self, order: RecipeContext) -> RoundResult:
            weights = dict(order.weights or {})
            for value in weights.values():
                value[...] = value + 1
            return RoundResult(weights, {"trunk": 7, "head": 7}, {"train.loss": 0.5})

    monkeypatch.setitem(registry.RECIPES, "teach", Scribbles())
    replies = made.ask(model)

    assert replies["east"] == replies["north"]
    for name, value in read_weights(made.folder / "run", model.sha256).items():
        np.testing.assert_array_equal(value, START[name] + np.float32(1))
