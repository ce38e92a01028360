"""What the gate adds to the way of one update of a 62 M-parameter model (249 MB, 150 tensors).

In one process and one run: the plain way (the runner's reply is framed, put into the courier's
store, announced and pushed over loopback HTTP in Flower's chunks to a receiver that proves every
name as the SuperLink does), then the same with the gate and a fsynced ledger. No TLS, no database,
no second hop and no training: a real round is longer, so the share of a real round is smaller.

    python -P tests/bench/bench_gate.py [--tensors 150] [--values 413000] [--repeats 5]
"""

import argparse
import json
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
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import push_object_contents_from_iterable
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.task_identity import TaskIdentity

from stillroom.client.gate import Gate, Request
from stillroom.client.ledger import Ledger
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import Reply, Task, pack_reply, pack_task
from stillroom.common.parcel import split
from stillroom.common.study import PreparedStage, PreparedStudy, Study


class Receiver(BaseHTTPRequestHandler):
    """Takes an object and proves its name."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One object."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        ok = sha256(data).hexdigest() == self.path[1:]
        self.send_response(200 if ok else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def prepared(manifest: Manifest) -> PreparedStudy:
    """A study of one stage with this manifest."""
    study = Study.parse(
        {
            "study": {"name": "bench"},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["vessel"]}},
            "model": {"student": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "student", "recipe": "distil"}],
        }
    )
    stage = PreparedStage(initial_sha256="0" * 64, manifest=manifest)
    return PreparedStudy(study=study, stages={"student": stage})


def delivered(message: Message) -> tuple[InMemoryObjectStore, dict[str, bytes], float]:
    """A message in a store of its own, as the runner delivers it, and how long that took."""
    from flwr.supercore.inflatable.inflatable_object import get_object_tree

    started = time.perf_counter()
    store = InMemoryObjectStore()
    with no_object_id_recompute():
        tree = get_object_tree(message)
        objects = {n: item.deflate() for n, item in get_all_nested_objects(message).items()}
    for name in store.preregister(1, tree):
        store.put(name, objects[name])
    return store, objects, time.perf_counter() - started


def push(client: httpx.Client, objects: dict[str, bytes]) -> float:
    """Seconds for all objects over the wire, two at a time as Flower does."""
    started = time.perf_counter()

    def send(name: str, data: bytes) -> None:
        client.post(f"/{name}", content=data).raise_for_status()

    push_object_contents_from_iterable(objects.items(), push_object_fn=send)
    return time.perf_counter() - started


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=150)
    parser.add_argument("--values", type=int, default=413_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    random = np.random.default_rng(0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rows: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client,
        Ledger(Path(folder) / "ledger.jsonl") as ledger,
    ):
        for _ in range(given.repeats):
            weights = {
                f"layer{n}.weight": random.standard_normal(given.values, np.float32)
                for n in range(given.tensors)
            }
            rows.append(measure(weights, client, ledger))
    server.shutdown()
    best = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    best["gate_of_plain_way"] = round(best["gate_s"] / best["plain_s"], 3)
    sys.stdout.write(json.dumps(best) + "\n")
    return 0


def measure(
    weights: dict[str, np.ndarray], client: httpx.Client, ledger: Ledger
) -> dict[str, float]:
    """One update, both ways."""
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=n, shape=v.shape, dtype="float32", group="all")
            for n, v in weights.items()
        )
    )
    study = prepared(manifest)
    gate = Gate(study, ledger)
    task = Message(pack_task(Task(study.digest, "student", 1, weights)), 7, "train.round", ttl=600)
    task.metadata.__dict__["_message_id"] = task.object_id
    store, objects, bring = delivered(task)
    pull = push(client, objects)  # the same bytes, the other way
    bare = Message(RecordDict(), 7, "train.round")
    bare.__dict__["_metadata"] = task.metadata
    started = time.perf_counter()
    request = gate.admit(bare, lambda name: store.get(name) or b"")
    admit = time.perf_counter() - started
    assert isinstance(request, Request)

    changed = {name: value + np.float32(0.01) for name, value in weights.items()}
    started = time.perf_counter()
    reply = Message(pack_reply(Reply(changed, {"all": 4}, {"train.loss": 0.5})), reply_to=bare)
    pack = time.perf_counter() - started
    store, objects, deliver = delivered(reply)
    send = push(client, objects)
    started = time.perf_counter()
    outgoing = gate.release(request, list(objects)[-1], lambda name: store.get(name) or b"")
    release = time.perf_counter() - started
    assert outgoing.message.has_content(), outgoing.message.error
    assert sum(len(split(data)[2]) for data in outgoing.objects.values()) > manifest.nbytes
    return {
        "megabytes": manifest.nbytes / 1e6,
        "bring_s": bring + pull,
        "pack_and_deliver_s": pack + deliver,
        "push_s": send,
        "plain_s": bring + pull + pack + deliver + send,
        "admit_s": admit,
        "release_s": release,
        "gate_s": admit + release,
    }


if __name__ == "__main__":
    sys.exit(main())
