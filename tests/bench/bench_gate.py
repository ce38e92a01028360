"""What the gate adds to the way of one update of a 62 M-parameter model (249 MB, 150 tensors).

First in real rounds: three sites, mutual TLS, real processes, with and without the gate in turn
(``gate_round``); with one step of training, and with none at all. Then on its own, in one process and
one run, for each encoding. Plain: the runner's file is written, and a file of the size that leaves is
sent over loopback HTTP to a receiver that proves its name, as the edge does. Gate: the runner's file
is read and checked, what leaves is made of it, and the ledger is fsynced. No TLS, no second hop and
no training: a real round is longer, so the share of a real round is smaller.

    python -P tests/bench/bench_gate.py [--tensors 150] [--values 413000] [--repeats 3] [--pairs 4]
                                        [--steps 1]
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.ledger import Entry, Ledger
from stillroom.client.outbox import Outbox
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import ENCODINGS, UpdateRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "inject")]
import gate_round  # noqa: E402  # beside this file, which is no package

PIECE = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    """Takes a file in pieces and proves its name."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One file."""
        left, found = int(self.headers["Content-Length"]), sha256()
        while left and (data := self.rfile.read(min(PIECE, left))):
            found.update(data)
            left -= len(data)
        self.send_response(200 if found.hexdigest() == self.path[1:] else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def prepared(manifest: Manifest, encoding: str) -> PreparedStudy:
    """A study of one stage with this manifest."""
    exchange = {"encoding": encoding}
    study = Study.parse(
        {
            "study": {"name": "bench"},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["vessel"]}},
            "model": {"student": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "student", "recipe": "distil", "rounds": 99, "exchange": exchange}],
        }
    )
    stage = PreparedStage(initial_sha256="0" * 64, manifest=manifest)
    return PreparedStudy(study=study, stages={"student": stage})


def push(client: httpx.Client, name: str, path: Path) -> float:
    """Seconds for a file over the wire."""
    started = time.perf_counter()
    with path.open("rb") as stream:
        pieces = iter(lambda: stream.read(PIECE), b"")
        length = {"Content-Length": str(path.stat().st_size)}
        client.post(f"/{name}", content=pieces, headers=length).raise_for_status()
    return time.perf_counter() - started


def measure(folder: Path, client: httpx.Client, given: argparse.Namespace) -> dict[str, object]:
    """Every encoding, round after round."""
    random = np.random.default_rng(0)
    model = {
        f"layer{n}.weight": 0.02 * random.standard_normal((given.values // 1000, 1000), np.float32)
        for n in range(given.tensors)
    }
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=n, shape=v.shape, dtype="float32", group="all")
            for n, v in model.items()
        )
    )
    exchange = ExchangeFolder(folder / "exchange").prepare()
    base = write_weights(exchange.models, model)
    rows: dict[str, list[dict[str, float]]] = {encoding: [] for encoding in ENCODINGS}
    with Ledger(folder / "ledger.jsonl") as ledger:
        for number in range(1, given.repeats + 1):
            for value in model.values():
                noise = 1e-3 * random.standard_normal(value.shape, np.float32)
                np.add(value, noise, out=value)
            started = time.perf_counter()
            update = write_weights(exchange.updates, model)
            write = time.perf_counter() - started
            size = exchange.update(update).stat().st_size
            for encoding, found in rows.items():
                study = prepared(manifest, encoding)
                outbox = Outbox.below(folder / encoding, exchange, study)
                started, cpu = time.perf_counter(), time.process_time()
                sealed = outbox.seal("student", number, UpdateRef("fp32", base, update, size))
                ledger.append(
                    Entry(
                        kind="sent",
                        decision="allowed",
                        content=sealed.ref.sha256,
                        bytes=sealed.ref.nbytes,
                        norm=sealed.norm,
                    )
                )
                gate, busy = time.perf_counter() - started, time.process_time() - cpu
                send = push(client, sealed.ref.sha256, sealed.path)
                found.append(
                    {
                        "megabytes_out": sealed.ref.nbytes / 1e6,
                        "write_s": write,
                        "gate_s": gate,
                        "gate_cpu_s": busy,
                        "push_s": send,
                    }
                )
            exchange.keep_updates(())
    return {
        encoding: {
            name: round(statistics.median(row[name] for row in found), 3) for name in found[0]
        }
        for encoding, found in rows.items()
    }


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=150)
    parser.add_argument("--values", type=int, default=413_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4, help="0: no real round")
    parser.add_argument("--steps", type=int, default=1, help="of training, 0: none")
    given = parser.parse_args()
    whole: dict[str, object] = {}
    if given.pairs:
        for steps in sorted({given.steps, 0}):
            with tempfile.TemporaryDirectory() as scratch:
                found = gate_round.measure(Path(scratch) / "study", given.pairs, steps=steps)
            whole[f"round_of_{steps}_steps"] = found
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with (
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
    ):
        found = whole | measure(Path(folder), client, given)
    server.shutdown()
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
