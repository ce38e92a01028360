"""What it costs to write, read and add up updates of a 62 M-parameter model (SwinUNETR-48's shapes).

One thread, one process, one run. The adding is compared with ``np.copyto`` of the same model, as
model bytes (249 MB, counted once) per processor second: a float32 update in memory, times its number
of cases, is added to a running sum, and the best of the repeats counts for both. Processor seconds,
because other processes on this machine take turns. Files lie in a temporary folder.

    python -P tests/bench/bench_aggregation.py [--share 1.0] [--repeats 3] [--sites 3]
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillroom.common.encoding import BlobReader, BlobWriter, apply_delta, most_bytes
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import ENCODINGS
from stillroom.common.study import Aggregation
from stillroom.common.weightfile import file_order
from stillroom.server.rounds.aggregate import RoundSum
from stillroom.server.rounds.averaging import GroupAverage
from stillroom.server.rounds.contributions import Contribution
from stillroom.server.rounds.memory import Memory

Model = dict[str, NDArray[np.float32]]
Row = dict[str, float | str]


def swin_shapes(width: int = 48) -> list[tuple[int, ...]]:
    """The convolutions, attention and norms of SwinUNETR, give or take its smallest tensors."""
    shapes: list[tuple[int, ...]] = [(width, 1, 2, 2, 2), (14, width, 1, 1, 1)]
    for level in range(4):
        c = width << level
        for _ in range(2):
            shapes += [(3 * c, c), (c, c), (4 * c, c), (c, 4 * c), (2197, 3 << level)]
            shapes += [(c,), (c,), (c,), (c,), (3 * c,), (4 * c,), (c,)]
        shapes += [(2 * c, 8 * c), (8 * c,), (8 * c,)]
    for c in (width, width, 2 * width, 4 * width, 16 * width):
        shapes += [(c, c, 3, 3, 3)] * 2
    for c in (16 * width, 8 * width, 4 * width, 2 * width, width):
        half = c // 2 if c > width else c
        shapes += [(c, half, 2, 2, 2), (half, 2 * half, 3, 3, 3), (half, half, 3, 3, 3)]
        shapes += [(half, 2 * half, 1, 1, 1)]
    return shapes


def manifest_of(share: float) -> Manifest:
    """The manifest, with the first axes cut to ``share``."""
    return Manifest(
        tensors=tuple(
            TensorSpec(
                name=f"net.{number:03d}.weight",
                shape=(max(1, int(shape[0] * share)), *shape[1:]),
                dtype="float32",
                group="net",
            )
            for number, shape in enumerate(swin_shapes())
        )
    )


def random_model(manifest: Manifest, seed: int, size: float) -> Model:
    """Normal numbers: changes of training look like them to an entropy coder."""
    rng = np.random.default_rng(seed)
    return {
        s.name: rng.standard_normal(s.shape, dtype=np.float32) * np.float32(size)
        for s in manifest.tensors
    }


def best(repeats: int, work: Callable[[], object]) -> tuple[float, float]:
    """Least wall and processor seconds of ``work``."""
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return min(walls), min(processors)


def write(path: Path, encoding: str, manifest: Manifest, values: Model) -> tuple[str, int]:
    """One encoded update, not fsynced."""
    with path.open("wb", buffering=0) as stream:
        writer = BlobWriter(stream, encoding, manifest)
        for spec in file_order(manifest):
            writer.add(spec.name, values[spec.name])
        return writer.finish()


def read(path: Path, encoding: str, manifest: Manifest, *, hashed: bool = True) -> None:
    """Every block of an update."""
    with path.open("rb", buffering=0) as stream:
        reader = BlobReader(stream, encoding, manifest, hashed=hashed)
        for _ in reader:
            pass
        reader.finish()


def adding(manifest: Manifest, values: Model, repeats: int) -> Row:
    """The add itself, beside a copy and beside the naive sum, in MB of model per processor second."""
    target = {name: np.ones_like(value) for name, value in values.items()}
    total = GroupAverage(manifest)
    total.add(values, {"net": 2})
    row: Row = {}

    def copy() -> None:
        for name, value in values.items():
            np.copyto(target[name], value)

    def naive() -> None:
        for name, value in values.items():
            target[name] = target[name] + np.float64(3) * value.astype(np.float64)

    works = {
        "copy": copy,
        "add": lambda: total.add(values, {"net": 3}),
        "add-weight-1": lambda: total.add(values, {"net": 1}),
    }
    least = dict.fromkeys(works, float("inf"))
    for _ in range(max(5, repeats)):  # In turns, so that a noisy neighbour meets them all.
        for name, work in works.items():
            least[name] = min(least[name], best(1, work)[1])
    least["naive"] = best(1, naive)[1]
    for name, seconds in least.items():
        row[f"{name}_mb_s"] = round(manifest.nbytes / 1e6 / seconds)
    row["add_over_copy"] = round(least["copy"] / least["add"], 3)
    return row


def wire(folder: Path, manifest: Manifest, values: Model, repeats: int) -> list[Row]:
    """Every encoding: time to write and read, and size."""
    rows = []
    for encoding in ENCODINGS:
        path = folder / encoding
        wall, processor = best(repeats, lambda: write(path, encoding, manifest, values))  # noqa: B023
        back, _ = best(repeats, lambda: read(path, encoding, manifest))  # noqa: B023
        rows.append(
            {
                "encoding": encoding,
                "encode_s": round(wall, 3),
                "encode_cpu_s": round(processor, 3),
                "encode_mb_s": round(manifest.nbytes / 1e6 / wall),
                "decode_s": round(back, 3),
                "decode_mb_s": round(manifest.nbytes / 1e6 / back),
                "share": round(path.stat().st_size / manifest.nbytes, 4),
                "share_at_most": round(most_bytes(encoding, manifest) / manifest.nbytes, 4),
            }
        )
    return rows


def whole(folder: Path, manifest: Manifest, sites: int) -> list[Row]:
    """A round at the server, from files of admitted updates to durable files of the next model."""
    base, rows = folder / "fp32", []
    name = sha256(base.read_bytes()).hexdigest()
    for encoding in ENCODINGS:
        methods = ("mean", "median") if encoding == "bf16-delta" else ("mean",)
        for method in methods:
            total = RoundSum(base, name, manifest, encoding, Aggregation(method=method))
            one = Contribution("a", folder / encoding, encoding, name, {"net": 3})
            started = time.perf_counter()
            for _ in range(sites):
                total.add(one)
            added = time.perf_counter() - started
            made = total.finish(folder, Memory(folder, f"{encoding}-{method}", 1))
            took = time.perf_counter() - started
            row: Row = {"round": f"{encoding} {method}", "add_s_per_site": round(added / sites, 3)}
            row["finish_s"] = round(took - added, 3)
            if made.delta_path is not None:
                started = time.perf_counter()
                with made.delta_path.open("rb") as stream:
                    apply_delta(base, stream, encoding, manifest, folder / "applied")
                row["apply_s"] = round(time.perf_counter() - started, 3)
                made.delta_path.unlink()
            if made.path != base:
                made.path.unlink()
            rows.append(row)
    return rows


def main() -> int:
    """Print one JSON object a line; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sites", type=int, default=3)
    options = parser.parse_args()
    manifest = manifest_of(options.share)
    values = random_model(manifest, 0, 1e-3)
    sys.stdout.write(
        json.dumps({"model_mb": round(manifest.nbytes / 1e6, 1), "tensors": len(values)}) + "\n"
    )
    with tempfile.TemporaryDirectory() as name:
        rows = [
            adding(manifest, values, options.repeats),
            *wire(Path(name), manifest, values, options.repeats),
        ]
        values.clear()
        rows += whole(Path(name), manifest, options.sites)
    rows.append({"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000})
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    bars = {"fp32": 1.01, "bf16-delta": 0.51, "int8-delta": 0.26}
    missed = [
        row["encoding"] for row in rows if "share" in row and row["share"] > bars[row["encoding"]]
    ]
    if rows[0]["add_over_copy"] < 0.5:
        missed.append("add")
    if missed:
        sys.stdout.write(json.dumps({"missed": missed}) + "\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
