"""What is about to leave: made once, of the bytes that were checked, in little memory."""

import hashlib
import io
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.outbox import Outbox, Record, carried_over
from stillroom.common.encoding import BlobReader, apply_delta
from stillroom.common.errors import ContractError, ResourceError, StillroomError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import UpdateRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import parse, serialise

SHAPES = {"a.weight": (40, 300), "a.bias": (40,), "b.weight": (7, 3, 5)}
DELTAS = ("bf16-delta", "int8-delta")


def prepared(encoding: str, shapes: dict[str, tuple[int, ...]] | None = None) -> PreparedStudy:
    study = Study.parse(
        {
            "study": {"name": "outbox", "max_update_norm": 1000.0},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"v": {"kind": "mask", "classes": ["x"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [
                {
                    "name": "t",
                    "recipe": "teach",
                    "label": "v",
                    "rounds": 9,
                    "exchange": {"encoding": encoding},
                }
            ],
        }
    )
    specs = [
        TensorSpec(name=name, shape=shape, dtype="float32", group="g")
        for name, shape in (shapes or SHAPES).items()
    ]
    specs.append(TensorSpec(name="steps", shape=(1,), dtype="int64", group="g"))
    stage = PreparedStage(initial_sha256="0" * 64, manifest=Manifest(tensors=tuple(specs)))
    return PreparedStudy(study=study, stages={"t": stage})


def weights(seed: int, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
        for name, shape in (shapes or SHAPES).items()
    }
    return {**found, "steps": np.array([seed])}


@dataclass
class Bench:
    """A site with an outbox."""

    exchange: ExchangeFolder
    outbox: Outbox
    base: str = ""

    def put(self, values: dict[str, Any], folder: Path) -> str:
        """A file under its digest."""
        data = serialise(values)
        name = hashlib.sha256(data).hexdigest()
        (folder / f"{name}.safetensors").write_bytes(data)
        return name

    def update(self, values: dict[str, Any]) -> UpdateRef:
        """As the runner delivers it."""
        name = self.put(values, self.exchange.updates)
        return UpdateRef("fp32", self.base, name, self.exchange.update(name).stat().st_size)

    def files(self) -> set[str]:
        """Kinds of files in the outbox."""
        return {path.suffix for path in self.outbox.folder.rglob("*") if path.is_file()}


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[str], Bench]:
    """Makes a site for an encoding; it holds model 0."""

    def make(encoding: str) -> Bench:
        exchange = ExchangeFolder(tmp_path / "exchange").prepare()
        made = Bench(exchange, Outbox.below(tmp_path / "courier", exchange, prepared(encoding)))
        made.base = made.put(weights(0), exchange.models)
        return made

    return make


def decoded(bench: Bench, path: Path, encoding: str) -> dict[str, Any]:
    """The model a reader makes of a change."""
    manifest, into = bench.outbox.prepared.stages["t"].manifest, path.with_suffix(".whole")
    with path.open("rb") as blob:
        apply_delta(bench.exchange.model(bench.base), blob, encoding, manifest, into)
    found = parse(into.read_bytes())
    into.unlink()
    return found


def test_whole_weights_leave_as_they_are(bench: Callable[[str], Bench]) -> None:
    """Byte for byte, under the digest the runner gave them."""
    site = bench("fp32")
    update = site.update(weights(1))
    sealed = site.outbox.seal("t", 1, update)

    assert sealed.ref == update
    assert sealed.path.read_bytes() == site.exchange.update(update.sha256).read_bytes()
    assert sealed.norm == pytest.approx(
        np.sqrt(sum(np.square(v.astype(float)).sum() for v in weights(1).values()))
    )


@pytest.mark.parametrize("encoding", DELTAS)
def test_what_is_lost_in_one_round_comes_in_the_next(
    bench: Callable[[str], Bench], encoding: str
) -> None:
    """Sent over many rounds, the same change adds up to itself: rounding does not accumulate."""
    site = bench(encoding)
    update = site.update(weights(1))
    total: dict[str, Any] = {}
    for number in range(1, 9):
        sealed = site.outbox.seal("t", number, update)
        with sealed.path.open("rb") as stream:
            manifest = site.outbox.prepared.stages["t"].manifest
            for spec, start, block in BlobReader(stream, encoding, manifest):
                if spec.dtype == "float32":
                    one = total.setdefault(spec.name, np.zeros(int(np.prod(spec.shape))))
                    one[start : start + block.size] += block
    for name, shape in SHAPES.items():
        wanted = 8 * (weights(1)[name].astype(float) - weights(0)[name]).reshape(-1)
        single = decoded(site, sealed.path, encoding)[name]
        step = np.abs(single - weights(1)[name]).max() + 1e-3
        assert np.abs(total[name] - wanted).max() <= 1.5 * step
        assert single.shape == shape


@pytest.mark.parametrize("encoding", DELTAS)
def test_other_kinds_of_numbers_travel_as_they_are(
    bench: Callable[[str], Bench], encoding: str
) -> None:
    """A counter is not a change."""
    site = bench(encoding)
    sealed = site.outbox.seal("t", 1, site.update(weights(7)))
    assert decoded(site, sealed.path, encoding)["steps"].tolist() == [7]


@pytest.mark.parametrize("encoding", ["fp32", *DELTAS])
def test_asked_again(bench: Callable[[str], Bench], encoding: str) -> None:
    """The same file, without a look at the runner's; made anew to the same bytes if it was lost."""
    site = bench(encoding)
    update = site.update(weights(1))
    site.outbox.seal("t", 1, update)
    sealed = site.outbox.seal("t", 2, update)
    data = sealed.path.read_bytes()

    sealed.path.write_bytes(data[:-1])
    assert site.outbox.seal("t", 2, update) == sealed
    assert sealed.path.read_bytes() == data
    site.exchange.update(update.sha256).unlink()
    assert site.outbox.seal("t", 2, update) == sealed


def test_which_residual_goes_in() -> None:
    """Of the round before; of this one if it is asked again; of none in another run."""
    record = Record(
        round=3,
        base="a" * 64,
        update="b" * 64,
        encoding="bf16-delta",
        sha256="c" * 64,
        nbytes=1,
        norm=0.0,
        before=f"2-{'d' * 64}.residual",
        after=f"3-{'c' * 64}.residual",
    )
    assert carried_over(None, 1) == ""
    assert carried_over(record, 4) == carried_over(record, 7) == record.after
    assert carried_over(record, 3) == record.before
    assert carried_over(record, 1) == ""


@pytest.mark.parametrize("encoding", DELTAS)
def test_another_update_for_the_same_round(bench: Callable[[str], Bench], encoding: str) -> None:
    """Replaces what was made before, as if that had never been."""
    site = bench(encoding)
    one, two, other = (site.update(weights(seed)) for seed in (1, 2, 3))
    site.outbox.seal("t", 1, one)
    wanted = site.outbox.seal("t", 2, two).path.read_bytes()
    site.outbox.seal("t", 2, other)
    assert site.outbox.seal("t", 2, two).path.read_bytes() == wanted
    assert len(list(site.outbox.folder.rglob("*.blob"))) == 1


@pytest.mark.parametrize("encoding", DELTAS)
def test_a_damaged_residual_is_done_without(bench: Callable[[str], Bench], encoding: str) -> None:
    """It costs a little accuracy, and no round."""
    site = bench(encoding)
    site.outbox.seal("t", 1, site.update(weights(1)))
    (residual,) = site.outbox.folder.rglob("*.residual")
    residual.write_bytes(residual.read_bytes()[:-4])
    without = site.outbox.seal("t", 2, site.update(weights(2))).path.read_bytes()
    fresh = Outbox(site.outbox.folder.parent / "fresh", site.exchange, site.outbox.prepared)
    assert fresh.seal("t", 1, site.update(weights(2))).path.read_bytes() == without


class Swapped(FileIO):
    """The runner's file, which changes under the reader's hands after its first bytes."""

    change: Callable[[], None]

    def readinto(self, buffer: Any) -> int:
        """As asked; then the change."""
        count = super().readinto(buffer)
        type(self).change()
        return count


@pytest.mark.parametrize("encoding", ["fp32", *DELTAS])
@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_file_that_changes_after_the_check(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch, encoding: str, how: str
) -> None:
    """What leaves is what was looked at, or nothing leaves."""
    monkeypatch.setattr("stillroom.common.layout.BUFFER", 4096)  # not the whole file at once
    site = bench(encoding)
    update = site.update(weights(1))
    path = site.exchange.update(update.sha256)
    good, evil = path.read_bytes(), serialise(weights(666))

    def change() -> None:
        if how == "written":
            with path.open("r+b") as stream:
                stream.write(evil)
        else:
            path.with_suffix(".new").write_bytes(evil)
            path.with_suffix(".new").replace(path)

    Swapped.change = staticmethod(change)  # type: ignore[method-assign]
    opened = FileIO(path)
    monkeypatch.setattr(
        ExchangeFolder, "open_update", lambda *_: Swapped(opened.fileno(), closefd=False)
    )
    if how == "written":
        with pytest.raises(ContractError) as caught:
            site.outbox.seal("t", 1, update)
        assert caught.value.code == "STR-311"
        assert site.files() == set()
        opened.close()
        return
    sealed = site.outbox.seal("t", 1, update)
    opened.close()
    monkeypatch.undo()
    path.write_bytes(good)
    fresh = Outbox(site.outbox.folder.parent / "fresh", site.exchange, site.outbox.prepared)
    assert fresh.seal("t", 1, update).path.read_bytes() == sealed.path.read_bytes()


@pytest.mark.parametrize("encoding", ["fp32", *DELTAS])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"a.bias": np.full(40, np.nan, np.float32)}, "STR-303"),
        ({"a.bias": np.full(40, 1e30, np.float32)}, "STR-303"),
        ({"a.bias": np.full(40, 3e38, np.float32)}, "STR-303"),
        ({"a.bias": np.full(40, 1000, np.float32)}, "STR-303"),
        ({"a.weight": np.full((40, 300), 1e-41, np.float32)}, "STR-303"),
        ({"a.bias": np.zeros(41, np.float32)}, "STR-302"),
        ({"a.bias": np.zeros(40, np.int32)}, "STR-302"),
        ({"more": np.zeros(1, np.float32)}, "STR-301"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    bench: Callable[[str], Bench], encoding: str, change: dict[str, Any], code: str
) -> None:
    """The same codes in every encoding, and an empty outbox."""
    site = bench(encoding)
    with pytest.raises(StillroomError) as caught:
        site.outbox.seal("t", 1, site.update({**weights(1), **change}))
    assert caught.value.code == code
    assert site.files() == set()


@pytest.mark.parametrize("encoding", DELTAS)
def test_a_base_that_is_not_what_its_name_says(
    bench: Callable[[str], Bench], encoding: str
) -> None:
    """STR-311: a change of something else would be added to something else."""
    site = bench(encoding)
    path = site.exchange.model(site.base)
    path.write_bytes(serialise(weights(5)))
    for _ in range(2):
        with pytest.raises(StillroomError) as caught:
            site.outbox.seal("t", 1, site.update(weights(1)))
        assert caught.value.code == "STR-311"
        assert site.files() == set()
        path.unlink(missing_ok=True)


def test_a_full_disk(bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """STR-503 by name, and nothing in part."""

    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "no space left")

    site = bench("fp32")
    update, plain = site.update(weights(1)), Path.open

    def opened(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return Full() if mode == "wb" else plain(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ResourceError) as caught:
        site.outbox.seal("t", 1, update)
    assert caught.value.code == "STR-503"
    assert site.files() == set()


@pytest.mark.parametrize("encoding", ["fp32", *DELTAS])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, encoding: str) -> None:
    """A model of sixteen tensors takes hardly more than a model of one."""
    peaks = []
    for count in (1, 16):
        shapes: dict[str, tuple[int, ...]] = {f"t{n}": (64, 4096) for n in range(count)}
        exchange = ExchangeFolder(tmp_path / f"exchange{count}").prepare()
        outbox = Outbox.below(tmp_path / f"c{count}", exchange, prepared(encoding, shapes))
        site = Bench(exchange, outbox)
        site.base = site.put(weights(0, shapes), exchange.models)
        update = site.update(weights(1, shapes))
        tracemalloc.start()
        outbox.seal("t", 1, update)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + (1 << 20)
