"""Laws of a round made from files: the same numbers as in memory, and safe at any crash."""

import hashlib
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.common.encoding import BlobReader, BlobWriter, apply_delta
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.manifest import BLOCK, Manifest, TensorSpec
from stillroom.common.messages import ENCODINGS
from stillroom.common.study import Aggregation
from stillroom.common.tensorfile import parse, serialise
from stillroom.common.weightfile import file_order
from stillroom.server.rounds.adaptive import step
from stillroom.server.rounds.aggregate import Aggregate, RoundSum, aggregate
from stillroom.server.rounds.averaging import GroupAverage
from stillroom.server.rounds.contributions import Contribution
from stillroom.server.rounds.memory import Memory

Update = dict[str, NDArray[Any]]
DELTAS = ENCODINGS[1:]
SHAPES = {
    "trunk.weight": (6, 40),
    "trunk.long": (BLOCK + 5,),
    "trunk.scale": (),
    "head.a.weight": (33,),
    "head.b.weight": (5, 1),
}
MANIFEST = Manifest(
    tensors=tuple(
        TensorSpec(name=name, shape=shape, dtype="float32", group=name.rpartition(".")[0])
        for name, shape in SHAPES.items()
    )
)
EVERYWHERE = {"trunk": 3, "head.a": 3, "head.b": 3}


def numbers(seed: int, size: float = 1.0) -> Update:
    rng = np.random.default_rng(seed)
    return {n: np.float32(rng.normal(size=s) * size).reshape(s) for n, s in SHAPES.items()}


class Bench:
    """A run folder with a model in it, and sites' updates as they lie in the depot."""

    def __init__(self, folder: Path, encoding: str, manifest: Manifest = MANIFEST) -> None:
        self.folder, self.encoding, self.manifest = folder, encoding, manifest
        self.weights = folder / "weights"
        self.memory = folder / "memory"
        for each in (self.weights, self.memory):
            each.mkdir()
        self.base: Update = {}

    def start(self, base: Update) -> None:
        """Make ``base`` the current model."""
        self.base, data = base, serialise(base)
        self.base_sha256 = hashlib.sha256(data).hexdigest()
        self.base_path = self.weights / f"{self.base_sha256}.safetensors"
        self.base_path.write_bytes(data)

    def site(
        self, name: str, change: Update, samples: dict[str, int] | None = None
    ) -> tuple[Contribution, Update]:
        """An update, and the weights it stands for (fp32) or the change a reader sees."""
        stream = io.BytesIO()
        writer = BlobWriter(stream, self.encoding, self.manifest)
        seen = {}
        for spec in file_order(self.manifest):
            value = change[spec.name]
            if self.encoding == "fp32" and spec.dtype == "float32":
                value = self.base[spec.name] + value
            seen[spec.name] = writer.add(spec.name, np.asarray(value))
        path = self.folder / name
        path.write_bytes(stream.getvalue())
        counts = EVERYWHERE if samples is None else samples
        return Contribution(name, path, self.encoding, self.base_sha256, counts), seen

    def sum(self, **rules: Any) -> RoundSum:
        """A round's empty sum."""
        return RoundSum(
            self.base_path, self.base_sha256, self.manifest, self.encoding, Aggregation(**rules)
        )

    def make(
        self,
        *sites: Contribution,
        number: int = 1,
        last: bool = False,
        total: RoundSum | None = None,
        **rules: Any,
    ) -> tuple[Aggregate, Update]:
        """A whole round; what came of it, and the new model."""
        made = aggregate(
            sites,
            total or self.sum(**rules),
            self.weights,
            Memory(self.memory, "teach", number, last=last),
        )
        return made, self.check(made)

    def check(self, made: Aggregate) -> Update:
        """The new model, after all that must hold of any aggregate's files."""
        data = made.path.read_bytes()
        assert made.path.name == f"{made.sha256}.safetensors"
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (made.sha256, made.nbytes)
        assert not list(self.folder.rglob("*.tmp"))
        assert (made.delta is None) == (self.encoding == "fp32")
        if made.delta is not None:
            assert made.delta_path is not None
            blob = made.delta_path.read_bytes()
            assert made.delta.base == self.base_sha256
            assert hashlib.sha256(blob).hexdigest() == made.delta.sha256
            assert len(blob) == made.delta.nbytes
            again = self.folder / "again"
            with made.delta_path.open("rb") as stream:
                assert (
                    apply_delta(self.base_path, stream, self.encoding, self.manifest, again)
                    == made.sha256
                )
            assert again.read_bytes() == data
        return parse(data)


@pytest.fixture(params=ENCODINGS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    made = Bench(tmp_path, request.param)
    made.start(numbers(100))
    return made


def slack(bench: Bench, changes: list[Update]) -> dict[str, float]:
    """What encoding the result may lose per value, beside float32's own rounding."""
    most = {n: max(float(np.abs(c[n]).max(initial=0)) for c in changes) for n in SHAPES}
    share = {"fp32": 0.0, "bf16-delta": 2.0**-8, "int8-delta": 0.5 / 127}[bench.encoding]
    return {name: share * most[name] + 1e-6 for name in SHAPES}


def test_it_is_the_weighted_mean(bench: Bench) -> None:
    """Against float64: mean over groups of what sites sent, plus at most one rounding."""
    counts = [{"trunk": 1 + k, "head.a": 7, "head.b": 5 * (k % 2)} for k in range(4)]
    sites = [bench.site(f"s{k}", numbers(k, 0.01), counts[k]) for k in range(4)]

    made, new = bench.make(*(one for one, _ in sites))

    allowed = slack(bench, [numbers(k, 0.01) for k in range(4)])
    for spec in MANIFEST.tensors:
        weights = [samples[spec.group] for samples in counts]
        mean = np.average([seen[spec.name].astype(np.float64) for _, seen in sites], 0, weights)
        expected = mean if bench.encoding == "fp32" else bench.base[spec.name] + mean
        np.testing.assert_allclose(new[spec.name], expected, rtol=1e-5, atol=allowed[spec.name])
    assert made.totals == {"trunk": 10, "head.a": 28, "head.b": 10}
    assert made.order == ("s0", "s1", "s2", "s3")
    assert made.clipped == {}


def test_fp32_is_the_running_sum_to_the_bit(tmp_path: Path) -> None:
    """From files in blocks or in memory: the same bytes as ``GroupAverage`` has always given."""
    bench = Bench(tmp_path, "fp32")
    bench.start(numbers(9))
    counts = [{"trunk": 1, "head.a": 2}, {"trunk": 17, "head.a": 0}, {"trunk": 3}]
    sites = [bench.site(f"s{k}", numbers(k), counts[k]) for k in range(3)]
    average = GroupAverage(MANIFEST)
    for (_, seen), samples in zip(sites, counts, strict=True):
        average.add(seen, samples)

    made, _ = bench.make(*(one for one, _ in sites))

    assert made.path.read_bytes() == serialise(average.finish(bench.base))


def test_a_group_nobody_trained_keeps_its_weights(bench: Bench) -> None:
    """To the bit; its share of the server's memory waits too."""
    trunk = {"trunk": 2}
    rounds = {"server": "fedadam"}
    _, first = bench.make(bench.site("a", numbers(1, 0.01))[0], **rounds)
    before = first
    bench.start(first)

    _, second = bench.make(bench.site("a", numbers(2, 0.01), trunk)[0], number=2, **rounds)

    for name in SHAPES:
        assert (second[name].tobytes() == before[name].tobytes()) == name.startswith("head")
    for kind in ("first", "second"):
        one, two = (
            parse((bench.memory / f"teach.{n:06d}.{kind}.safetensors").read_bytes()) for n in (1, 2)
        )
        assert one["head.a.weight"].tobytes() == two["head.a.weight"].tobytes()
        assert one["trunk.weight"].tobytes() != two["trunk.weight"].tobytes()


@pytest.mark.parametrize("encoding", DELTAS)
def test_nothing_is_lost_over_rounds(encoding: str, tmp_path: Path) -> None:
    """What encoding the model lost comes back: after many rounds it is one round's rounding."""
    bench = Bench(tmp_path, encoding)
    bench.start(numbers(50))
    exact = {name: value.astype(np.float64) for name, value in bench.base.items()}
    for number in range(1, 13):
        site, seen = bench.site("a", numbers(number, 0.01))
        for name, value in seen.items():
            exact[name] = exact[name] + value
        _, new = bench.make(site, number=number)
        bench.start(new)

    one = slack(bench, [numbers(31, 0.02)])
    for name in SHAPES:
        assert np.abs(bench.base[name] - exact[name]).max() < one[name] + 12 * 2.5e-7


@pytest.mark.parametrize("method", ["median", "trimmed-mean"])
def test_robust_rules_from_files(bench: Bench, method: str) -> None:
    """Every coordinate as NumPy says, whatever the order; a liar moves nothing far."""
    changes = [numbers(k, 0.01) for k in range(4)] + [numbers(9, 1e6)]
    sites = [bench.site(f"s{k}", change) for k, change in enumerate(changes)]

    made, new = bench.make(*(one for one, _ in sites), method=method)
    other, _ = bench.make(*(one for one, _ in sites[::-1]), method=method)

    allowed = slack(bench, changes[:4])
    for name in SHAPES:
        stack = np.sort(np.array([seen[name].astype(np.float64) for _, seen in sites]), axis=0)
        middle = stack[2] if method == "median" else stack[1:4].mean(axis=0)
        expected = middle if bench.encoding == "fp32" else bench.base[name] + middle
        np.testing.assert_allclose(new[name], expected, rtol=1e-5, atol=2 * allowed[name])
    assert other.sha256 == made.sha256


def test_a_robust_rule_asks_only_who_trained(bench: Bench) -> None:
    """A site without a label has no voice in its head, and no group loses its weights."""
    honest = [bench.site(f"s{k}", numbers(k, 0.01), {"trunk": 1, "head.a": 1}) for k in range(2)]
    other = bench.site("x", numbers(9, 1e3), {"trunk": 1})

    _, new = bench.make(honest[0][0], other[0], honest[1][0], method="median")

    assert new["head.b.weight"].tobytes() == bench.base["head.b.weight"].tobytes()
    allowed = slack(bench, [numbers(k, 0.01) for k in range(2)])["head.a.weight"]
    name = "head.a.weight"
    expected = (honest[0][1][name] + honest[1][1][name]) / 2
    if bench.encoding != "fp32":
        expected = bench.base[name] + expected
    np.testing.assert_allclose(new[name], expected, rtol=1e-5, atol=allowed)


@pytest.mark.parametrize("method", ["mean", "median"])
def test_a_far_update_is_shortened(bench: Bench, method: str) -> None:
    """To the norm asked for, in its own direction; a near one is left as it is, to the bit."""
    near, far = numbers(1, 1e-4), numbers(2, 1.0)
    length = np.sqrt(sum(float(np.sum(np.square(v, dtype=np.float64))) for v in far.values()))
    sites = [bench.site("far", far), bench.site("near", near)]
    total = bench.sum(clip_norm=1.0, method=method)

    assert total.add(sites[0][0]) == pytest.approx(1 / length, rel=1e-2)
    assert total.add(sites[1][0]) == 1.0
    made = total.finish(bench.weights, Memory(bench.memory, "teach", 1))
    new = bench.check(made)

    assert list(made.clipped) == ["far"]
    for name in SHAPES:
        shortened = far[name].astype(np.float64) / length
        expected = bench.base[name] + (shortened + near[name]) / 2
        np.testing.assert_allclose(new[name], expected, rtol=0, atol=4e-4 + 1e-6)


@pytest.mark.parametrize("server", ["fedadam", "fedyogi"])
def test_adaptive_servers_over_rounds(bench: Bench, server: str) -> None:
    """Three rounds from files are three rounds of the rule on arrays, moments included."""
    rules = Aggregation(server=server)
    model = {name: value.astype(np.float64) for name, value in bench.base.items()}
    first = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    second = {n: np.full(s, rules.tau**2, np.float32) for n, s in SHAPES.items()}
    for number in (1, 2, 3):
        site, seen = bench.site("a", numbers(number, 0.01))
        for name in SHAPES:
            change = seen[name] - bench.base[name] if bench.encoding == "fp32" else seen[name]
            model[name] += step(np.asarray(change), first[name], second[name], rules)
        _, new = bench.make(site, number=number, server=server)
        bench.start(new)

    # A step is at most about the learning rate, a residual a rounding of one; and Yogi's sign may
    # fall the other way where a change equals its moment but for the last bit.
    allowed = {"fp32": 1e-4, "bf16-delta": 3e-4, "int8-delta": 3e-4}[bench.encoding]
    for name in SHAPES:
        np.testing.assert_allclose(bench.base[name], model[name], rtol=0, atol=allowed)


@pytest.mark.parametrize("server", ["fedavg", "fedadam"])
def test_the_last_model_is_the_average_of_all(tmp_path: Path, server: str) -> None:
    """Sites train on the models as they are; the stage leaves their moving average."""
    for name in ("plain", "kept"):
        (tmp_path / name).mkdir()
    plain, kept = (Bench(tmp_path / name, "fp32") for name in ("plain", "kept"))
    average: dict[str, NDArray[Any]] = {}
    for bench in (plain, kept):
        bench.start(numbers(0))
    for number in (1, 2, 3):
        counts = EVERYWHERE if number != 2 else {**EVERYWHERE, "head.b": 0}
        change = numbers(number, 0.1)
        _, model = plain.make(plain.site("a", change, counts)[0], number=number, server=server)
        for name, value in model.items():
            average[name] = 0.8 * average[name] + 0.2 * value if number > 1 else value
        rules = {"number": number, "last": number == 3, "server": server, "average": 0.8}
        site = kept.site("a", change, counts)[0]
        made, new = kept.make(site, **rules)
        again, _ = kept.make(site, **rules)
        assert again.sha256 == made.sha256
        if number < 3:
            assert made.path.read_bytes() == (plain.weights / made.path.name).read_bytes()
        plain.start(model)
        kept.start(new)

    for name, value in average.items():
        np.testing.assert_allclose(kept.base[name], value, rtol=0, atol=1e-6)


def test_other_dtypes(bench: Bench, tmp_path: Path) -> None:
    """Counters are averaged and rounded, flags by majority; both travel as they are."""
    manifest = Manifest(
        tensors=(
            TensorSpec(name="g.n", shape=(2,), dtype="int64", group="g"),
            TensorSpec(name="g.on", shape=(2,), dtype="bool", group="g"),
            TensorSpec(name="g.h", shape=(1,), dtype="float16", group="g"),
            TensorSpec(name="g.w", shape=(2,), dtype="float32", group="g"),
            TensorSpec(name="still.n", shape=(1,), dtype="int64", group="still"),
        )
    )
    (tmp_path / "own").mkdir()
    own = Bench(tmp_path / "own", bench.encoding, manifest)

    def one(n: int, *, on: bool) -> Update:
        return {
            "g.n": np.array([n, -n]),
            "g.on": np.array([on, True]),
            "g.h": np.array([n], np.float16),
            "g.w": np.zeros(2, np.float32),
            "still.n": np.array([7]),
        }

    own.start(one(0, on=False))
    for method in ("mean", "median"):
        sites = [
            own.site(f"s{k}", one(n, on=k > 0), {"g": 1})[0] for k, n in enumerate([100, 203, 102])
        ]
        _, new = own.make(*sites, method=method)

        expected = 135 if method == "mean" else 102
        assert new["g.n"].tolist() == [expected, -expected]
        assert new["g.on"].tolist() == [True, True]
        assert new["g.h"].tolist() == [expected]
        assert new["still.n"].tolist() == [7]
        assert {n: v.dtype.name for n, v in new.items()} == {
            s.name: s.dtype for s in manifest.tensors
        }


def test_a_round_is_made_again_to_the_same_bytes(bench: Bench) -> None:
    """A crash before the commit: the same round, from the same past, gives the same files."""
    rules = {"server": "fedyogi"}
    _, new = bench.make(bench.site("a", numbers(1, 0.01))[0], **rules)
    bench.start(new)
    sites = [bench.site(f"s{k}", numbers(k, 0.01))[0] for k in range(3)]

    made, _ = bench.make(*sites, number=2, **rules)
    files = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}
    again, _ = bench.make(*sites, number=2, **rules)

    assert again == made
    assert {p: p.read_bytes() for p in bench.folder.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("rules", [{}, {"server": "fedadam"}, {"method": "median"}])
def test_a_round_that_breaks_leaves_the_past(
    bench: Bench, rules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at any write: no half file counts, and the next attempt is undisturbed."""
    _, new = bench.make(bench.site("a", numbers(1, 0.01))[0], **rules)
    bench.start(new)
    site, _ = bench.site("b", numbers(2, 0.01))
    before = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}

    for writes in range(0, 7, 2):
        total = bench.sum(**rules)
        total.add(site)
        with monkeypatch.context() as patch:
            patch.setattr("stillroom.common.weightfile.HashedOutput.write", failing(writes))
            with pytest.raises(OSError, match="full"):
                total.finish(bench.weights, Memory(bench.memory, "teach", 2))
        after = {path: path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()}
        assert after == before
    bench.make(site, number=2, **rules)


def test_a_crash_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of a round's files are there and others not: made again, it is as if nothing had been."""
    bench = Bench(tmp_path, "int8-delta")
    bench.start(numbers(0))
    site, _ = bench.site("a", numbers(1, 0.01))
    expected, _ = bench.make(site, server="fedadam")
    for renames in range(7):
        for path in (*bench.memory.iterdir(), expected.path, expected.delta_path):
            assert path is not None
            path.unlink()
        left = [renames]

        def replace(source: Path, target: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("killed")
            source.rename(target)

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", replace)
            with pytest.raises(OSError, match="killed"):
                bench.make(site, server="fedadam")
        again, _ = bench.make(site, server="fedadam")
        assert again == expected


def failing(after: int) -> Callable[[object, object], None]:
    """A write that fails from the n-th call on."""
    left = [after]

    def write(_self: object, _data: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("full")

    return write


def test_memory_is_needed_and_forgotten(tmp_path: Path) -> None:
    """A lost past stops the round; after the commit only the present stays, of this stage alone."""
    bench = Bench(tmp_path, "int8-delta")
    bench.start(numbers(0))
    (bench.memory / "teach2.000001.residual.safetensors").write_bytes(b"")
    for number in (1, 2, 3):
        site, _ = bench.site("a", numbers(number, 0.01))
        bench.make(site, number=number)
    Memory(bench.memory, "teach", 3).forget()

    assert {path.name for path in bench.memory.iterdir()} == {
        "teach.000003.residual.safetensors",
        "teach2.000001.residual.safetensors",
    }
    with pytest.raises(TrustError) as caught:
        bench.make(site, number=9)
    assert caught.value.code == "STR-204"


def test_what_does_not_belong_is_refused(bench: Bench) -> None:
    """Another base, another encoding, counts of other groups; and the sum goes on without it."""
    good, _ = bench.site("a", numbers(1, 0.01))
    total = bench.sum()
    other = next(name for name in ENCODINGS if name != bench.encoding)
    for bad in (
        Contribution("x", good.path, good.encoding, "0" * 64, good.samples),
        Contribution("x", good.path, other, good.base, good.samples),
        Contribution("x", good.path, good.encoding, good.base, {"patients": 1}),
    ):
        with pytest.raises(ContractError):
            total.add(bad)
    made, _ = bench.make(good, total=total)
    alone, _ = bench.make(good)

    assert made.sha256 == alone.sha256
    assert made.order == ("a",)


def test_no_update_no_model(bench: Bench) -> None:
    """The round says so by its code."""
    with pytest.raises(ContractError) as caught:
        bench.make()

    assert caught.value.code == "STR-305"


def peak(folder: Path, encoding: str, sites: int, method: str) -> int:
    folder.mkdir()
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=f"g.{k}", shape=(8, 1 << 15), dtype="float32", group="g")
            for k in range(8)
        )
    )  # 8 MiB
    bench = Bench(folder, encoding, manifest)
    change = {spec.name: np.full(spec.shape, 0.5, np.float32) for spec in manifest.tensors}
    bench.start(change)
    site, _ = bench.site("a", change, {"g": 1})
    total = bench.sum(method=method)
    tracemalloc.start()
    for _ in range(sites):
        total.add(site)
    total.finish(bench.weights, Memory(bench.memory, "teach", 1))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_memory_is_one_model_from_two_to_sixteen_sites(encoding: str, tmp_path: Path) -> None:
    """The sum, one tensor and blocks; the old model is never there, nor are the updates."""
    two, sixteen = (peak(tmp_path / str(n), encoding, n, "mean") for n in (2, 16))

    assert two < (8 + 4) * 2**20
    assert sixteen <= two + 32768


def test_robust_memory_is_a_block_a_site(tmp_path: Path) -> None:
    """As stated: one tensor, and under 2 MiB for every site."""
    few, many = (peak(tmp_path / str(n), "bf16-delta", n, "median") for n in (3, 9))

    assert few < 12 * 2**20
    assert many - few < 6 * 2 * 2**20


def test_readers_find_nothing_in_a_change_of_nothing(tmp_path: Path) -> None:
    """Sites that changed nothing: the model's bytes are the same, its change almost no bytes."""
    bench = Bench(tmp_path, "bf16-delta")
    bench.start(numbers(3))
    still = {name: np.zeros_like(value) for name, value in bench.base.items()}

    made, _ = bench.make(bench.site("a", still)[0])

    assert made.sha256 == bench.base_sha256
    assert made.delta_path is not None
    with made.delta_path.open("rb") as stream:
        assert not any(block.any() for _, _, block in BlobReader(stream, "bf16-delta", MANIFEST))
